"""The pickle interpreter: plain data is inert, every other name ends the reading, and nothing explodes."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import random
import struct
import types
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medcli.checkpoint import unpickle
from medcli.checkpoint.pickle_values import Inert
from medcli.checkpoint.unpickle import safe_load
from medcli.errors import CheckpointError
from medcli.runtime.memory import peak_memory_mib

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(min_size=1, max_size=60),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)
OBJECTS = {
    "namespace": argparse.Namespace(lr=1e-4, out=pathlib.Path("a/b")),
    "simple namespace": types.SimpleNamespace(a=1),
    "windows path": pathlib.PureWindowsPath("c:/x"),
    "array": np.arange(1000),
    "object array": np.array([{}, "x"], dtype=object),
    "dtype": np.dtype("f4"),
    "random state": np.random.RandomState(0),
    "generator": np.random.default_rng(0),
    "state of random": random.getstate(),
    "state of numpy": np.random.get_state(),
    "random": random.Random(0),
    "date": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    "delta": datetime.timedelta(1),
    "set": {1, 2},
    "frozenset": frozenset([1]),
    "complex": 1 + 2j,
    "bytearray": bytearray(b"x" * 100),
    "range": range(3),
    "slice": slice(1, 2),
    "numpy text": np.str_("abc"),
    "numpy date": np.datetime64("2020-01-01"),
}


def read(data: bytes) -> Any:
    return safe_load(io.BytesIO(data), "x.pt")[0]


@given(PLAIN, st.sampled_from(PROTOCOLS))
def test_plain_values_come_back_as_they_were(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", OBJECTS)
def test_plain_data_beside_weights_is_read_over(name: str, protocol: int) -> None:
    assert read(pickle.dumps({"step": 7, name: OBJECTS[name], "loss": 0.5}, protocol))["loss"] == 0.5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numbers_of_numpy_and_containers_of_collections_have_their_values(protocol: int) -> None:
    values = {
        "f8": np.float64(2.5),
        "i8": np.int64(-7),
        "flag": np.bool_(True),
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, {1: [2]}),
        "counter": collections.Counter("aab"),
        "deque": collections.deque([1, 2], maxlen=3),
    }
    expected = {
        "f8": 2.5,
        "i8": -7,
        "flag": True,
        "ordered": {"a": 1},
        "default": {1: [2]},
        "counter": {"a": 2, "b": 1},
    }
    assert read(pickle.dumps(values, protocol)) == {**expected, "deque": [1, 2]}


@pytest.mark.parametrize("module", ["__main__", "mine.training"])
def test_classes_of_a_script_that_hold_settings_are_placeholders(module: str) -> None:
    assert read(f"c{module}\nTrainConfig\n)\x81}}X\x02\0\0\0lrK\x01sb.".encode("latin-1")).settings == {"lr": 1}


def test_a_namespace_keeps_its_settings() -> None:
    found = read(pickle.dumps(OBJECTS["namespace"]))
    assert isinstance(found, Inert)
    assert found.settings["lr"] == 1e-4


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *[("builtins", word) for word in ("eval", "exec", "open", "__import__", "type", "map", "compile")],
        *[("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("functools", "partial")],
        *[("operator", "attrgetter"), ("numpy", "load"), ("numpy", "fromfile"), ("numpy.testing", "run_module_suite")],
        *[("torch", "load"), ("torch.hub", "load"), ("torch._utils", "_import_dotted_name"), ("pathlib", "os.system")],
        *[("pathlib", "Path.unlink"), ("collections", "namedtuple"), ("types", "FunctionType")],
        *[("omegaconf", "OmegaConf.load"), ("random", "_urandom"), ("copyreg", "add_extension")],
        *[("__main__", "run"), ("__main__", "Model"), ("subprocess", "Config"), ("torch.storage", "_load_from_bytes")],
    ],
)  # fmt: skip
def test_names_that_are_no_plain_data_end_the_reading(module: str, name: str) -> None:
    for data in (f"c{module}\n{name}\n.".encode(), pickle.dumps(module)[:-2] + pickle.dumps(name)[2:-2] + b"\x93."):
        with pytest.raises(CheckpointError):
            read(data)
    with pytest.raises(CheckpointError, match="wants to run"):
        read(f"c{module}\n{name}\n.".encode())


def test_members_of_enumerations_are_read_in_the_form_of_every_python() -> None:
    """Python 3.11.0 to 3.11.3 write `getattr(PathType, "GVP")`, others `PathType("GVP")`."""
    for module in ("builtins", "__builtin__"):
        data = f"c{module}\ngetattr\n(c__main__\nPathType\nX\x03\0\0\0GVPtR."
        found = read(data.encode())
        assert isinstance(found, Inert)
        assert (found.kind, found.args) == ("__main__.PathType", ("GVP",))


@pytest.mark.parametrize(
    "args",
    [
        "(X\x01\0\0\0ax",
        "(cbuiltins\ngetattr\nX\x01\0\0\0a",
        "(c__main__\nPathType\nX\x03\0\0\0a.b",
        "(c__main__\nPathType\n",
    ],
)
def test_other_attributes_are_refused(args: str) -> None:
    with pytest.raises(CheckpointError):
        read(f"cbuiltins\ngetattr\n{args}tR.".encode())


BOMBS = {
    "memo": b"\x80\x02}r" + struct.pack("<I", 2**31) + b".",
    "a text doubled": b"\x80\x02X\x04\x00\x00\x00aaaaq\x00" + b"0ctorch\ndevice\n(h\x00h\x00tRq\x00" * 60 + b"h\x00.",
    "a key of doubled tuples": b"\x80\x02" + b"K\x01q\x00" + b"0h\x00h\x00\x86q\x00" * 60 + b"}h\x00K\x01s.",
    "a length beyond the file": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a long of gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "bytes of exabytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
    "lists": b"\x80\x02" + b"]" * 2_100_000 + b".",
    "nested lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "digits": b"I" + b"9" * 50_000 + b"\n.",
    "extension": b"\x80\x02\x82\x01.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_neither_memory_nor_time(name: str) -> None:
    def load() -> None:
        with suppress(CheckpointError):
            safe_load(io.BytesIO(BOMBS[name]), "x.pt")

    peak_mib = peak_memory_mib(load, torch.device("cpu"))
    assert peak_mib is None or peak_mib < 300


def test_a_pickle_with_too_many_steps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle, "MAX_OPCODES", 100)
    with pytest.raises(CheckpointError, match="more than 100 steps"):
        read(pickle.dumps(list(range(200))))


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00"
    b"\x00\x00cpuK\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89Ntq\x01R"
)


@pytest.mark.parametrize("state", [b"]b", b"}b", b"Nb", b"K\x01b"])
def test_no_state_is_set_on_a_tensor(state: bytes) -> None:
    assert read(b"\x80\x02" + TENSOR + b".").shape == (2, 2)
    with pytest.raises(CheckpointError, match="damaged"):
        read(b"\x80\x02" + TENSOR + state + b".")


def test_a_tensor_does_not_replace_another_of_its_name() -> None:
    with pytest.raises(CheckpointError, match="two tensors named w"):
        read(b"\x80\x02}(X\x01\x00\x00\x00w" + TENSOR + b"X\x01\x00\x00\x00w" + TENSOR + b"u.")


@settings(max_examples=300)
@given(st.data())
def test_damage_is_a_checkpoint_error_or_another_value(data: st.DataObject) -> None:
    whole = bytearray(
        pickle.dumps({"a": OBJECTS["namespace"], "b": [1, "x", (2.5,)]}, data.draw(st.sampled_from(PROTOCOLS)))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(CheckpointError):
        read(bytes(whole[: data.draw(st.integers(1, len(whole)))]))

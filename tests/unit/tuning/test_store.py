"""Measurements on disk: kept once, found again, refused when they are not what is asked for."""

import io
import json
import os
import pickle

import numpy as np
import pytest

from medcli.errors import ConfigError, DataError
from medcli.tuning.store import Store


def test_an_array_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return np.arange(3.0)

    with Store(tmp_path / "s") as store:
        first, second = store.array("tables/a.npy", (3,), make), store.array("tables/a.npy", (3,), make)
    np.testing.assert_array_equal(first, second)
    assert len(made) == 1


def test_what_fails_while_it_is_made_leaves_nothing(tmp_path):
    def make():
        raise RuntimeError("killed")

    with Store(tmp_path / "s") as store, pytest.raises(RuntimeError):
        store.array("a.npy", (1,), make)
    assert list((tmp_path / "s").iterdir()) == []


def test_measurements_under_other_settings_are_refused_by_name(tmp_path):
    with Store(tmp_path) as store:
        store.claim({"seed": 0, "layers": (0, 1)})
        store.claim({"seed": 0, "layers": (0, 1)})
        with pytest.raises(ConfigError, match="seed"):
            store.claim({"seed": 1, "layers": (0, 1)})
        with pytest.raises(ConfigError, match="steps"):
            store.claim({"seed": 0, "layers": (0, 1), "steps": 9})


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="not empty"):
        Store(tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        Store(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["{", "[1]", "\udcff"])
def test_damaged_files_are_named(tmp_path, content):
    with Store(tmp_path) as store:
        (tmp_path / "a.json").write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(DataError, match=r"a\.json is damaged"):
            store.json("a.json")
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY torn")
        with pytest.raises(DataError, match=r"a\.npy is damaged"):
            store.array("a.npy", (1,), lambda: np.zeros(1))


def test_json_is_written_with_sorted_keys(tmp_path):
    with Store(tmp_path) as store:
        store.put_json("a.json", {"b": 1, "a": (1, 2)})
        assert store.json("a.json") == {"a": [1, 2], "b": 1}
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["a", "b"]


def npy_of(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


GOOD = npy_of(np.arange(6.0).reshape(2, 3))
BAD_ARRAYS = {
    "empty": b"",
    "cut": GOOD[:-1],
    "longer": GOOD + b"0",
    "another shape": npy_of(np.zeros((3, 2))),
    "whole numbers": npy_of(np.zeros((2, 3), np.int64)),
    "objects": pickle.dumps([1, 2]),
    "not finite": npy_of(np.full((2, 3), np.nan)),
    "huge": GOOD.replace(b"(2, 3)", b"(9**9,)"),
    "npz": b"PK\x03\x04",
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_an_array_that_is_not_what_was_stored_is_named_and_never_used(tmp_path, name):
    with Store(tmp_path) as store:
        (tmp_path / "a.npy").write_bytes(BAD_ARRAYS[name])
        with pytest.raises(DataError, match=r"a\.npy is damaged") as caught:
            store.array("a.npy", (2, 3), lambda: np.zeros((2, 3)))
        assert caught.value.hint == "remove it, and run the command again"


def test_a_pipe_in_the_place_of_a_measurement_is_refused(tmp_path):
    with Store(tmp_path / "new") as store:
        os.mkfifo(store.path / "a.npy")
        os.mkfifo(store.path / "a.json")
        with pytest.raises(DataError, match="a.npy"):
            store.array("a.npy", (1,), lambda: np.zeros(1))
        with pytest.raises(DataError, match="pipe"):
            store.json("a.json")

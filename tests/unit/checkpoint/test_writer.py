"""What we write is whole, the same every time, and rebuilds its model alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import medcli
from medcli.checkpoint import stream
from medcli.checkpoint.export import write_diffusers, write_official
from medcli.checkpoint.header import Header
from medcli.checkpoint.reader import describe, open_checkpoint
from medcli.checkpoint.safetensors_file import read_safetensors
from medcli.checkpoint.writer import record_of, save_checkpoint, write_safetensors
from medcli.config import ModelConfig
from medcli.errors import CheckpointError, ConfigError
from medcli.runtime.files import file_sha256
from medcli.runtime.reporting import Silent
from tests.unit.checkpoint.builders import TINY, random_state

LADDER = replace(TINY, mediators=(1, 4), mediator_layers=(0, 3))
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def write_to(path: Path, tensors: dict[str, torch.Tensor], **options: Any) -> str | None:
    records = [record_of(name, tensor) for name, tensor in tensors.items()]
    return write_safetensors(path, records, {}, source="x.pt", **options)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    state = random_state(LADDER, dtype=dtype)
    save_checkpoint(
        tmp_path / "x.safetensors", LADDER, state, weights="model", sampling={"steps": 50}, reference="digits"
    )
    model = medcli.load(tmp_path / "x.safetensors")
    assert model.config == LADDER
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    info = describe(tmp_path / "x.safetensors")
    assert (info.layout, info.weights, info.reference) == ("medcli", "model", "digits")
    assert info.sampling == {"steps": 50}


def test_the_same_contents_give_the_same_file_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    first = save_checkpoint(tmp_path / "a.safetensors", LADDER, random_state(LADDER))
    again = save_checkpoint(tmp_path / "deep/b.safetensors", LADDER, dict(reversed(random_state(LADDER).items())))
    assert first == again == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()


def test_the_hash_is_that_of_the_file_and_of_the_file_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"a": torch.randn(1000, 333), "b": torch.randn(3, dtype=torch.float64)}
    digest = write_to(tmp_path / "x", tensors)
    assert digest == hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest() == file_sha256(tmp_path / "x")
    assert write_to(tmp_path / "y", tensors, digest=False) is None
    assert (tmp_path / "y").read_bytes() == (tmp_path / "x").read_bytes()
    monkeypatch.setattr(stream, "CHUNK_BYTES", 64)
    assert write_to(tmp_path / "z", tensors) == digest


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    tensors = {"good": torch.full((9,), torch.finfo(dtype).max, dtype=dtype), "bad": torch.zeros(5, 7, dtype=dtype)}
    tensors["bad"][4, 6] = value
    with pytest.raises(CheckpointError, match=r"x\.pt: tensor bad holds NaN or infinite"):
        write_to(tmp_path / "x", tensors)
    assert list(tmp_path.iterdir()) == []


def test_a_state_dict_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = random_state(LADDER)
    with pytest.raises(CheckpointError, match="1 missing"):
        save_checkpoint(tmp_path / "x", LADDER, {k: v for k, v in state.items() if k != "final_layer.linear.bias"})
    with pytest.raises(CheckpointError, match="pos_embed is missing"):
        save_checkpoint(tmp_path / "x", LADDER, {k: v for k, v in state.items() if k != "pos_embed"})
    with pytest.raises(CheckpointError, match="int64"):
        save_checkpoint(tmp_path / "x", LADDER, {**state, "pos_embed": torch.ones(3, dtype=torch.int64)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"format_version": 99}, {"config": {}}, {"config": {"x": 1}}, {"weights": None}])
def test_a_header_we_did_not_write_is_refused(change: dict[str, Any]) -> None:
    import json

    values = json.loads(Header(TINY, "ema").to_metadata()["medcli"])
    values.update(change)
    if change == {"weights": None}:
        del values["weights"]
    with pytest.raises(CheckpointError):
        Header.from_metadata({"medcli": json.dumps(values)}, "x")


@pytest.mark.parametrize("text", ["", "[]", "1", "nonsense"])
def test_a_damaged_header_is_a_checkpoint_error(text: str) -> None:
    with pytest.raises(CheckpointError, match="header"):
        Header.from_metadata({"medcli": text}, "x")


def test_a_hint_may_not_contradict_our_header(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", LADDER, random_state(LADDER))
    assert describe(tmp_path / "x.safetensors", family="sit", num_heads=2).config == LADDER
    with pytest.raises(CheckpointError, match="family sit, not dit"):
        describe(tmp_path / "x.safetensors", family="dit")


def official(path: Path, config: ModelConfig, state: dict[str, torch.Tensor]) -> Path:
    records = {name: record_of(name, tensor) for name, tensor in state.items()}
    return write_official(path, records, config, source="x", force=False, reporter=Silent())


@pytest.mark.parametrize("dtype", FLOATS)
def test_torch_reads_our_official_file_with_its_safe_loader(tmp_path: Path, dtype: torch.dtype) -> None:
    config = replace(TINY, mediators=(4,), mediator_layers=(1,))
    state = random_state(config, dtype=dtype)
    loaded = torch.load(official(tmp_path / "sit.pt", config, state), weights_only=True)
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    mapped = torch.load(tmp_path / "sit.pt", weights_only=True, mmap=True)
    assert torch.equal(mapped["pos_embed"], state["pos_embed"])


def test_our_official_file_is_the_same_every_time_aligned_and_readable_by_us(tmp_path: Path) -> None:
    state = random_state()
    official(tmp_path / "sit_a.pt", TINY, state)
    official(tmp_path / "sit_b.pt", TINY, state)
    assert (tmp_path / "sit_a.pt").read_bytes() == (tmp_path / "sit_b.pt").read_bytes()
    for record in open_checkpoint(tmp_path / "sit_a.pt", hints=_heads()).records.values():
        assert record.pieces[0].offset % 64 == 0  # type: ignore[union-attr]
    model = medcli.load(tmp_path / "sit_a.pt", num_heads=2)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def _heads() -> Any:
    from medcli.checkpoint.infer import Hints

    return Hints(num_heads=2)


def test_upstream_has_no_names_for_several_counts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one mediator count"):
        official(tmp_path / "x.pt", LADDER, random_state(LADDER))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (TINY, "SiT"),
        (replace(TINY, family="dit"), "position table"),
        (replace(TINY, family="dit", mediators=(4,), mediator_layers=(0,)), "mediators"),
        (replace(TINY, family="dit", mlp_ratio=2.0), "MLP ratio"),
        (replace(TINY, family="dit", has_null_class=False), "null class"),
    ],
)
def test_diffusers_is_given_only_what_it_can_hold(tmp_path: Path, config: ModelConfig, reason: str) -> None:
    records = {name: record_of(name, tensor) for name, tensor in random_state(config).items()}
    with pytest.raises(ConfigError, match=reason):
        write_diffusers(tmp_path / "x", records, config, source="x", force=False, reporter=Silent())
    assert list(tmp_path.iterdir()) == []


def test_metadata_is_one_key(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", LADDER, random_state(LADDER))
    assert list(read_safetensors(tmp_path / "x.safetensors")[1]) == ["medcli"]

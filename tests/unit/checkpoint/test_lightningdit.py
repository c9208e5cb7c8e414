"""Settings beside a file of LightningDiT, its rotary tables, and statistics of latents."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import medcli
from medcli.checkpoint.lightningdit import read_statistics
from medcli.checkpoint.reader import CheckpointInfo, describe
from medcli.errors import CheckpointError
from tests.golden.peers_support import PEERS

QKNORM, LATENTS = PEERS / "ldit_qknorm", PEERS / "ldit_latents"
NAME = "lightningdit-tiny.pt"


def copied(folder: Path, *names: str, case: Path = QKNORM) -> Path:
    for name in names:
        shutil.copy(case / name, folder / name)
    return folder / NAME


def statistics(channels: int, **changes: Any) -> dict[str, Any]:
    shape = (1, channels, 1, 1)
    return {"mean": torch.full(shape, 0.5), "std": torch.full(shape, 2.0), **changes}


def test_the_yaml_beside_a_file_tells_stride_and_factor(tmp_path: Path) -> None:
    path = copied(tmp_path, NAME, "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(
        text.replace("latent_multiplier: 1.0", "latent_multiplier: 0.5").replace("ratio: 16", "ratio: 8")
    )
    config = describe(path).config
    assert (config.latent_scale, config.latent_downsample, config.resolution_px) == (0.5, 8, 32)


@pytest.mark.parametrize("change", [("use_swiglu: true", "use_swiglu: false"), ("in_chans: 32", "in_chans: 16"), None])
def test_without_settings_that_fit_it_is_read_as_published_with_a_remark(
    tmp_path: Path, change: tuple[str, str] | None
) -> None:
    path = copied(tmp_path, NAME, "config.yaml")
    yaml = tmp_path / "config.yaml"
    yaml.write_text(yaml.read_text().replace(*change)) if change else yaml.unlink()
    info = describe(path)
    assert "the published one is assumed" in info.remarks[0]
    assert (info.config.latent_scale, info.config.latent_downsample, info.lacks_statistics) == (1.0, 16, True)


@pytest.mark.parametrize("content", ["{", "- 1", "", "a: &a [*a]\n", "x: " + "[" * 3000])
def test_a_yaml_file_of_something_else_is_passed_over(tmp_path: Path, content: str) -> None:
    path = copied(tmp_path, NAME)
    (tmp_path / "other.yaml").write_text(content)
    assert "the published one is assumed" in describe(path).remarks[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are Unix's")
def test_a_pipe_beside_a_file_is_not_waited_for(tmp_path: Path) -> None:
    path = copied(tmp_path, NAME)
    os.mkfifo(tmp_path / "other.yaml")
    assert "the published one is assumed" in describe(path).remarks[0]


def test_statistics_beside_a_file_are_part_of_its_configuration(tmp_path: Path) -> None:
    path = copied(tmp_path, NAME, "config.yaml")
    torch.save(statistics(32), tmp_path / "latents_stats.pt")
    info: CheckpointInfo = describe(path)
    assert (info.config.latent_mean, info.config.latent_std) == ((0.5,) * 32, (2.0,) * 32)
    assert not info.lacks_statistics
    torch.save(statistics(16), tmp_path / "latents_stats.pt")
    with pytest.raises(CheckpointError, match="is of 16 latent channels, expected 32"):
        describe(path)


@pytest.mark.parametrize(
    "content",
    [
        {"mean": torch.zeros(4)},
        [torch.zeros(4)],
        statistics(4, std=torch.zeros(1, 4, 1, 1)),
        statistics(4, mean=torch.full((1, 4, 1, 1), float("nan"))),
        statistics(4, std="none"),
        statistics(4, std=torch.ones(1, 4, 1, 1, dtype=torch.int64)),
        statistics(4, std=torch.ones(1 << 17)),
    ],
)
def test_files_that_are_no_statistics_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "latents_stats.pt")
    with pytest.raises(CheckpointError):
        read_statistics(tmp_path / "latents_stats.pt", 4)


def test_upstreams_statistics_are_read() -> None:
    mean, std = read_statistics(LATENTS / "latents_stats.pt", 32)
    held = torch.load(LATENTS / "latents_stats.pt", weights_only=True)
    assert mean == tuple(held["mean"].flatten().tolist())
    assert std == tuple(held["std"].flatten().tolist())


def test_rotary_tables_of_other_positions_are_refused(tmp_path: Path) -> None:
    content = torch.load(QKNORM / NAME, weights_only=True)
    table = "module.feat_rope.freqs_cos"
    content["ema"][table] = content["ema"][table].roll(1, 0)
    torch.save(content, tmp_path / NAME)
    with pytest.raises(CheckpointError, match="whole-number positions"):
        medcli.load(tmp_path / NAME)


def test_training_settings_tell_the_stride_of_other_latents(tmp_path: Path) -> None:
    config = medcli.ModelConfig(
        family="sit", hidden_size=16, depth=1, num_heads=4, patch_size=1, latent_size=4, in_channels=32, num_classes=10,
        learn_sigma=False,
    )  # fmt: skip
    state = medcli.new(config).state_dict()
    torch.save({"ema": state, "args": {"model": "SiT-S/1", "image_size": 64}}, tmp_path / "told.pt")
    torch.save(state, tmp_path / "sit-bare.pt")
    told = describe(tmp_path / "told.pt", num_heads=4)
    assert (told.config.latent_downsample, told.config.resolution_px) == (16, 64)
    assert not any("stride" in remark for remark in told.remarks)
    bare = describe(tmp_path / "sit-bare.pt", num_heads=4)
    assert bare.config.resolution_px == 32
    assert any("the stride of its 32-channel latents is unknown" in remark for remark in bare.remarks)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medcli.data.latent_space import LatentSpace, cached_folder, latent_space
from medcli.errors import EnvironmentProblem

CONFIG = {"latent_channels": 16, "block_out_channels": [8, 8, 8, 8], "scaling_factor": 1.5305, "shift_factor": 0.0609}


def space(path: Path, **changes: Any) -> LatentSpace:
    (path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return latent_space(str(path))


def test_channels_stride_and_factors_are_the_configurations(tmp_path: Path) -> None:
    assert space(tmp_path) == LatentSpace(channels=16, stride=8, scale=1.5305, shift=0.0609)
    assert space(tmp_path, block_out_channels=[8] * 5).stride == 16


def test_what_the_configuration_does_not_say_is_unknown(tmp_path: Path) -> None:
    found = space(tmp_path, shift_factor=None, scaling_factor=None)
    assert (found.scale, found.shift) == (None, None)


def test_a_pipeline_holds_it_in_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    space(tmp_path / "vae")
    assert latent_space(str(tmp_path)).channels == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"block_out_channels": None},
        {"block_out_channels": []},
        {"block_out_channels": [1] * 50},
        {"latent_channels": 0},
        {"latent_channels": "4"},
        {"latent_channels": 10**9},
        *({"scaling_factor": value} for value in (0, -1, float("nan"), float("inf"), "x", True, [1])),
        *({"shift_factor": value} for value in (float("nan"), "x", {})),
    ],
)
def test_impossible_values_are_the_autoencoders_fault(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(EnvironmentProblem, match="no usable autoencoder"):
        space(tmp_path, **changes)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "[" * 100_000])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(EnvironmentProblem, match="no usable autoencoder"):
        latent_space(str(tmp_path))


@pytest.mark.parametrize("alias", ["ema", "sd-vae-ft-ema", "stabilityai/sd-vae-ft-ema"])
def test_short_names_are_stabilitys(tmp_path: Path, alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str, file: str) -> str | None:
        return str(tmp_path / file) if name == "stabilityai/sd-vae-ft-ema" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", found)
    assert cached_folder(alias) == tmp_path

"""Commands on files of REPA and LightningDiT, their autoencoder and their latents."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medcli.cli.app import main
from tests.golden.peers_support import PEERS, file_of
from tests.unit.checkpoint.builders import TINY, random_state
from tests.unit.data.test_autoencoder import save_tiny_autoencoder

QUICK = ["--steps", "2", "--num-images", "1", "--sampler", "ode", "-q"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def vavae16(path: Path) -> None:
    """An autoencoder of 32 channels at stride 16."""
    from diffusers import AutoencoderKL

    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 5, up_block_types=("UpDecoderBlock2D",) * 5,
        block_out_channels=(4,) * 5, norm_num_groups=2, latent_channels=32, scaling_factor=1.0,
    ).save_pretrained(path)  # fmt: skip


def test_a_repa_file_is_sampled_and_fine_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_autoencoder(Path("vae"))
    source = str(file_of("repa_qknorm"))
    assert main(["sample", source, "--vae", "vae", *QUICK, "-o", "s"]) == 0
    settings = json.loads(Path("s/manifest.json").read_text())["settings"]
    assert settings["guidance"]["channels"] is None
    assert settings["sampler"]["path"] == "linear"
    capsys.readouterr()
    assert main(["convert", source, "--mediators", "4", "-o", "m.safetensors", "-q", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len([name for name in report["dropped"] if name.startswith("projectors.")]) == 6
    assert "final_layer.linear.weight" not in report["copied"]


def test_lightningdit_needs_its_statistics_and_trains_on_its_latents(capsys: pytest.CaptureFixture[str]) -> None:
    vavae16(Path("vae"))
    source = str(file_of("ldit_qknorm"))
    assert main(["sample", source, "--vae", "vae", *QUICK, "-o", "s"]) == 3
    assert "latents_stats.pt, which is missing" in capsys.readouterr().err
    shutil.copytree(PEERS / "ldit_latents", "lat")
    run = ["finetune", source, "--data", "lat", "--steps", "2", "--global-batch-size", "2", "-o", "r", "-q"]
    assert main(run) == 0
    # The trained model has the statistics of its latents.
    assert main(["sample", "r/checkpoint.safetensors", "--vae", "vae", *QUICK, "-o", "t"]) == 0
    shutil.copy("lat/latents_stats.pt", "vae/latents_stats.pt")
    assert main(["sample", source, "--vae", "vae", *QUICK, "-o", "u"]) == 0


def test_a_network_from_scratch_takes_the_space_of_its_latents() -> None:
    shutil.copytree(PEERS / "ldit_latents", "lat")
    sizes = ["--width", "16", "--depth", "1", "--heads", "2", "--patch", "1"]
    run = ["finetune", *sizes, "--data", "lat", "--steps", "1", "--global-batch-size", "2", "-o", "r", "-q"]
    assert main(run) == 0
    import medcli

    config = medcli.load("r/checkpoint.safetensors").config
    assert (config.in_channels, config.latent_size, config.latent_downsample, config.latent_scale) == (32, 4, 16, 1.0)
    held = torch.load("lat/latents_stats.pt", weights_only=True)
    assert config.latent_std == tuple(held["std"].flatten().tolist())


def test_an_autoencoder_of_another_stride_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_autoencoder(Path("vae"))
    shutil.copy(PEERS / "ldit_latents" / "latents_stats.pt", "vae/latents_stats.pt")
    source = str(file_of("ldit_qknorm"))
    assert main(["sample", source, "--vae", "vae", *QUICK, "-o", "s"]) == 2
    assert "4 channels at stride 8, the model 32 at stride 16" in capsys.readouterr().err


def test_the_autoencoder_of_other_channels_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(file_of("ldit_wo_shift"), "lightningdit.pt")
    shutil.copy(file_of("ldit_wo_shift").with_name("config.yaml"), "config.yaml")
    torch.save({"mean": torch.zeros(1, 16, 1, 1), "std": torch.ones(1, 16, 1, 1)}, "latents_stats.pt")
    assert main(["sample", "lightningdit.pt", *QUICK, "-o", "s"]) == 2
    assert "nothing tells the autoencoder of this model's latents of 16 channels" in capsys.readouterr().err


def test_convert_takes_an_autoencoder_that_fits_and_tells_something(capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_autoencoder(Path("vae"))
    torch.save(random_state(replace(TINY, in_channels=16)), "sit.pt")
    torch.save(random_state(TINY), "sit4.pt")
    flags = ["--heads", "2", "--vae", "vae", "-o", "m.safetensors"]
    assert main(["convert", "sit.pt", *flags]) == 2
    assert "the autoencoder vae has 4 channels at stride 8, the model 16" in capsys.readouterr().err
    assert main(["convert", "sit4.pt", *flags, "-q"]) == 0
    assert main(["convert", "m.safetensors", "--vae", "vae", "-o", "n.safetensors"]) == 2
    assert "--vae does nothing: m.safetensors says how its latents are made" in capsys.readouterr().err


def test_statistics_beside_an_autoencoder_are_those_of_a_network_from_scratch(make_photos: None) -> None:
    import medcli

    save_tiny_autoencoder(Path("vae"))
    mean, std = torch.full((1, 4, 1, 1), 0.25), torch.full((1, 4, 1, 1), 2.0)
    torch.save({"mean": mean, "std": std}, "vae/latents_stats.pt")
    sizes = ["--width", "16", "--depth", "1", "--heads", "2", "--res", "32"]
    run = ["finetune", *sizes, "--vae", "vae", "--data", "photos", "--steps", "1", "--global-batch-size", "2", "-q"]
    assert main([*run, "-o", "r"]) == 0
    assert main(["latents", "photos", "--res", "32", "--vae", "vae", "-o", "lat", "-q"]) == 0
    run[run.index("photos")] = "lat"
    assert main([*run, "-o", "s"]) == 0
    for folder in ("r", "s"):
        config = medcli.load(f"{folder}/checkpoint.safetensors").config
        assert (config.latent_mean, config.latent_std) == ((0.25,) * 4, (2.0,) * 4)


@pytest.fixture
def make_photos() -> None:
    """Images of two classes."""
    import numpy as np
    from PIL import Image

    for label in "ab":
        Path("photos", label).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{label}/{number}.png")

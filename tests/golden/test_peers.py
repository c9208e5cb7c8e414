"""REPA and LightningDiT: networks, trajectories, autoencoder and latents, against their own numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import medcli
from medcli.checkpoint.lightningdit import read_statistics
from medcli.checkpoint.reader import describe
from medcli.cli.app import main
from medcli.data.datasets import open_training_set
from medcli.errors import DataError
from tests.golden.peers_support import LIGHTNINGDIT, PEERS, REPA, case_of, file_of, heads_of, relative, tensors_of


@pytest.mark.parametrize("weights", ["ema", "model"])
@pytest.mark.parametrize("name", [*REPA, *LIGHTNINGDIT])
def test_networks_give_upstreams_outputs(name: str, weights: str) -> None:
    io, case = tensors_of(name, "io"), case_of(name)
    expected = io.get("out" if weights == "ema" else "out_model")
    if expected is None:
        pytest.skip("the file has one set of weights")
    model = medcli.load(file_of(name), num_heads=heads_of(name), weights=weights)
    is_reversed = case["family"] == "repa"
    with torch.no_grad():
        found = model(io["x"], 1 - io["t"] if is_reversed else io["t"], io["y"])
    assert relative(-found if is_reversed else found, expected) < case["io"]["tolerance_rel"]


@pytest.mark.parametrize("name", LIGHTNINGDIT)
def test_lightningdit_is_read_with_all_its_settings(name: str) -> None:
    network, info = case_of(name)["network"], describe(file_of(name))
    config = info.config
    assert (config.family, config.num_heads, config.latent_size) == ("sit", network["num_heads"], network["input_size"])
    assert config.norm == ("rms" if network["use_rmsnorm"] else "layer")
    assert (config.mlp == "swiglu", config.rope) == (network["use_swiglu"], network["use_rope"])
    assert (config.qk_norm, config.has_shift) == (network["use_qknorm"], not network["wo_shift"])
    assert (config.latent_downsample, config.latent_scale, info.lacks_statistics) == (16, 1.0, True)
    assert (info.sampling["path"], info.sampling["prediction"]) == ("linear", "velocity")
    assert any("--time-shift" in remark for remark in info.remarks)


def test_repas_settings_are_read_in_our_words() -> None:
    linear = {"path": "linear", "prediction": "velocity", "diffusion_form": "sigma", "cfg_channels": "all"}
    assert describe(file_of("repa_linear"), num_heads=4).sampling == linear
    cosine = describe(file_of("repa_cosine"), num_heads=2)
    assert cosine.sampling == {**linear, "path": "gvp", "diffusion_form": "linear"}
    assert cosine.remarks[0].startswith("12 tensors of REPA's projectors are left out")
    assert len(cosine.left_out) == 12


@pytest.mark.parametrize("name", ["repa_qknorm", "ldit_qknorm"])
def test_a_conversion_and_its_official_form_are_the_same_network(name: str, tmp_path: Path) -> None:
    ours, official = tmp_path / "ours.safetensors", tmp_path / "official_sit.pt"
    assert main(["convert", str(file_of(name)), "--layers", "none", "-o", str(ours), "-q"]) == 0
    assert main(["convert", str(ours), "--to", "official", "-o", str(official), "-q"]) == 0
    io, case = tensors_of(name, "io"), case_of(name)
    t = 1 - io["t"] if case["family"] == "repa" else io["t"]
    with torch.no_grad():
        first, second, third = (
            medcli.load(path, family=family)(io["x"], t, io["y"])
            for path, family in ((file_of(name), None), (ours, None), (official, "sit"))
        )
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    held = torch.load(official, weights_only=True)
    if name == "ldit_qknorm":
        theirs = torch.load(file_of(name), weights_only=True)["ema"]
        assert {f"module.{key}" for key in held} == set(theirs)
        torch.testing.assert_close(held["feat_rope.freqs_cos"], theirs["module.feat_rope.freqs_cos"])


@pytest.mark.parametrize("name", ["repa_qknorm", "ldit_full", "ldit_wo_shift"])
def test_mediators_fine_tuning_and_cost_follow(name: str, tmp_path: Path) -> None:
    converted = tmp_path / "m.safetensors"
    flags = ["--mediators", "1,4", "--layers", "all", "-o", str(converted), "-q"]
    assert main(["convert", str(file_of(name)), *flags]) == 0
    model = medcli.load(converted)
    io = tensors_of(name, "io")
    with torch.no_grad():
        outputs = [model(io["x"], io["t"], io["y"], count) for count in (0, 1, 4)]
        assert torch.equal(outputs[0], medcli.load(file_of(name))(io["x"], io["t"], io["y"]))
    assert len({float(output.std()) for output in outputs}) == 3
    assert medcli.count_macs(model, num_mediators=1) < medcli.count_macs(model, num_mediators=4)
    assert main(["flops", str(converted), "-q", "--json"]) == 0


RUNS = [(name, run) for name in (*REPA, *LIGHTNINGDIT) for run in case_of(name)["trajectory"]["runs"]]


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_trajectories_end_where_upstreams_do(name: str, run: str) -> None:
    """REPA's interval includes both of its ends, ours the lower: the upper one is a little above."""
    case, held = case_of(name), tensors_of(name, "trajectory")
    known = case["trajectory"]["runs"][run]
    settings: dict[str, Any] = {"cfg_scale": known["cfg_scale"]}
    noise: Any = held["z"]
    if case["family"] == "lightningdit":
        settings |= {"sampler": "ode", "solver": known["sampling_method"], "steps": known["num_sampling_steps"]}
        settings["time_shift"] = known["timestep_shift"] or 1.0
        if known["cfg_interval"] and known["cfg_scale"] != 1:
            settings["cfg_interval"] = (known["cfg_interval_start"], 1.0)
    elif known["function"] == "euler_sampler":
        settings |= {"sampler": "ode", "solver": "heun" if known["heun"] else "euler", "steps": known["num_steps"] + 1}
        settings |= {"last_step": "euler"} if known["heun"] else {}
    else:
        settings |= {"sampler": "sde", "steps": known["num_steps"]}
        draws = torch.cat([held["z"][None], held[f"{run}.noise"], torch.zeros_like(held["z"])[None]])

        def noise(index_B: Tensor, draw_B: Tensor) -> Tensor:
            return draws[draw_B, index_B]

    if "guidance_high" in known:
        settings["cfg_interval"] = (1 - known["guidance_high"], min(1.0, 1 - known["guidance_low"] + 1e-6))
    model = medcli.load(file_of(name), num_heads=heads_of(name))
    labels = held["y"].tolist()
    found = medcli.sample(model, num_images=len(labels), classes=labels, noise=noise, decode=False, **settings)
    assert isinstance(found, Tensor)
    assert relative(found, held[f"{run}.final"]) < known["tolerance_rel"]


def test_the_autoencoder_of_latent_diffusions_layout_gives_upstreams_numbers() -> None:
    """Its deepest level has attention, which a plain AutoencoderKL would leave out."""
    case, io = case_of("vavae"), tensors_of("vavae", "io")
    vae = medcli.load_autoencoder(file_of("vavae"))
    assert (vae.space.channels, vae.space.stride, vae.space.scale) == (16, 2, 1.0)
    assert relative(vae.encode(io["image"]), io["moments.mean"]) < case["tolerance_rel"]
    assert relative(vae.decode(io["latent"]), io["decoded"]) < case["tolerance_rel"]
    pixels = (127.5 * vae.decode(io["latent"]) + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    assert int((pixels.int() - io["decoded_uint8_NHWC"].int()).abs().max()) <= 1


@pytest.mark.parametrize(("kind", "scale"), [("norm", 1.0), ("norm_mult", 0.5)])
def test_latents_are_normalised_by_the_statistics_of_their_folder(kind: str, scale: float) -> None:
    folder = PEERS / "ldit_latents"
    mean, std = read_statistics(folder / "latents_stats.pt", 32)
    config = replace(
        describe(file_of("ldit_full")).config, latent_mean=mean, latent_std=std, latent_scale=scale, num_classes=10
    )
    data = open_training_set(str(folder), config, flip=False)
    expected = load_file(folder / "expected" / "expected.safetensors")
    rows = expected[f"{kind}.latents"]
    latents, labels = data.read(torch.arange(len(rows)), torch.arange(len(rows)), 0)
    assert relative(latents, rows) < 1e-6
    assert labels.tolist() == expected["labels"][: len(rows)].tolist()
    with pytest.raises(DataError, match="differ from the model's by up to"):
        open_training_set(str(folder), replace(config, latent_mean=tuple(value + 1 for value in mean)))

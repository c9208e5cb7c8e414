"""REPA and LightningDiT: networks, against their own numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import medcli
from medcli.checkpoint.reader import describe
from medcli.cli.app import main
from tests.golden.peers_support import LIGHTNINGDIT, REPA, case_of, file_of, heads_of, relative, tensors_of


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

"""EDT, MDTv2 and attention modulation as a user meets them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import medcli
from medcli.config import ModelConfig
from medcli.errors import ExitCode
from medcli.model.amm import Amm
from tests.cli.test_sample import hashes, manifest, refused
from tests.conftest import RunCli
from tests.unit.engine.tiny import PIXELS, save, state_of

DENSE = replace(PIXELS, mediators=(), mediator_layers=(), learn_sigma=True, patch_size=1)
EDT = replace(
    DENSE,
    family="edt",
    depth=5,
    stage_depths=(1, 1, 1, 1, 1),
    stage_widths=(16, 20, 24, 20, 16),
    stage_heads=(2, 2, 3, 4, 4),
)
MDT = replace(DENSE, family="mdtv2", depth=4, decoder_depth=2)
SIT = replace(DENSE, depth=4, learn_sigma=False, mediators=(4,), mediator_layers=(0,))
QUICK = ("--steps", "4", "--seed", "1", "--num-images", "2", "--device", "cpu")
FAMILIES = {"edt": EDT, "mdtv2": MDT}


def said(run_cli: RunCli, *argv: Any) -> dict[str, Any]:
    result = run_cli(*argv, "--json")
    assert result.code == 0, result.err
    report: dict[str, Any] = json.loads(result.out)
    return report


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reference_checkpoint_is_inspected_converted_sampled_counted_and_scored(
    run_cli: RunCli, empty_folder: Path, family: str
) -> None:
    config = FAMILIES[family]
    # As training runs write them: two weight sets and the arguments.
    torch.save({"model": state_of(config, 1), "ema": state_of(config)}, "trained.pt")
    info = said(run_cli, "inspect", "trained.pt")
    assert info["family"] == family
    assert info["weights_available"] == ["ema", "model"]
    if family == "edt":
        assert info["stage_depths"] == [1, 1, 1, 1, 1]
        assert (info["stage_widths"], info["stage_heads"]) == ([16, 20, 24, 20, 16], [2, 2, 3, 4, 4])
    else:
        assert info["decoder_depth"] == 2
    said(run_cli, "convert", "trained.pt", "--layers", "none", "-o", "repacked.safetensors")
    inputs = torch.ones(1, 1, 8, 8), torch.tensor([500]), torch.tensor([3])
    with torch.no_grad():
        assert torch.equal(medcli.load("repacked.safetensors")(*inputs), medcli.load("trained.pt")(*inputs))
    report = said(run_cli, "sample", "repacked.safetensors", *QUICK, "-o", "out")
    assert report["gmacs_per_image"] == pytest.approx(2 * 4 * info["gmacs"])
    assert manifest(Path("out"))["settings"]["sampler"]["sampler"] == "ddpm"
    rows = said(run_cli, "flops", "repacked.safetensors", "--mediators", "none")["rows"]
    assert rows[0]["gmacs"] == info["gmacs"]
    assert said(run_cli, "fid", "out", "digits", "--metrics", "kid")["num_samples"] == 2


def test_the_families_guidance_is_that_of_their_papers(run_cli: RunCli, empty_folder: Path) -> None:
    guidance = {}
    for family, config in FAMILIES.items():
        save(empty_folder / f"{family}.safetensors", config)
        said(run_cli, "sample", f"{family}.safetensors", *QUICK, "-o", family)
        guidance[family] = manifest(Path(family))["settings"]["guidance"]
    assert guidance["edt"] == {"scale": 2.0, "channels": None}
    assert guidance["mdtv2"] == {"scale": 3.8, "channels": None, "power": 4.0}
    said(run_cli, "sample", "mdtv2.safetensors", *QUICK, "--cfg-power", "0", "-o", "constant")
    assert "power" not in manifest(Path("constant"))["settings"]["guidance"]
    assert hashes(Path("constant")) != hashes(Path("mdtv2"))
    # A power that has no effect at any timestep is constant guidance.
    said(run_cli, "sample", "mdtv2.safetensors", *QUICK, "--cfg-power", "1e-12", "-o", "flat")
    assert hashes(Path("flat")) == hashes(Path("constant"))


@pytest.mark.parametrize(
    ("config", "blocks"), [(EDT, "1,4"), (MDT, "3"), (SIT, "2,3"), (replace(DENSE, family="dit"), "1")]
)
def test_amm_changes_the_images_and_is_recorded_and_costs_what_it_says(
    run_cli: RunCli, empty_folder: Path, config: ModelConfig, blocks: str
) -> None:
    save(empty_folder / "m.safetensors", config)
    plain = said(run_cli, "sample", "m.safetensors", *QUICK, "--cfg-scale", "1", "-o", "plain")
    words = ("sample", "m.safetensors", *QUICK, "--amm", "2.5", "--amm-blocks", blocks, "--cfg-scale", "1")
    modulated = said(run_cli, *words, "-o", "out")
    listed = [int(block) for block in blocks.split(",")]
    assert manifest(Path("out"))["settings"]["amm"] == {"blocks": listed, "radius": 2.5, "form": "exp"}
    assert plain["amm"] is None
    assert modulated["gmacs_per_image"] == plain["gmacs_per_image"]
    assert modulated["amm"]["saving_percent"] == 0
    assert 0 < modulated["amm"]["extra_percent"] < 5
    assert hashes(Path("plain")) != hashes(Path("out"))
    # The same command has nothing left to do; another radius is another run.
    before = hashes(Path("out"))
    said(run_cli, *words, "-o", "out")
    assert hashes(Path("out")) == before
    again = run_cli(
        "sample", "m.safetensors", *QUICK, "--cfg-scale", "1", "--amm", "auto", "--amm-blocks", blocks, "-o", "out"
    )
    refused(again, ExitCode.USAGE, "other settings (--amm)")


def test_amm_is_in_no_file_and_shared_by_the_blocks_of_a_grid(empty_folder: Path) -> None:
    path = save(empty_folder / "edt.safetensors", EDT)
    model = medcli.load(path, amm=Amm(blocks=(0, 1, 4), radius=1.5))
    matrices = [block.attn.modulation_NN for block in model.ordered_blocks()]
    assert matrices[0] is matrices[4]
    assert matrices[1].shape == (16, 16)
    assert matrices[2] is None
    assert matrices[0].dtype == torch.float32
    assert set(model.state_dict()) == set(load_file(path))


def test_amm_takes_the_published_blocks_where_there_are_some(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "m.safetensors", MDT)
    result = run_cli("sample", "m.safetensors", *QUICK, "--amm", "auto")
    refused(result, ExitCode.USAGE, "no blocks for AMM are published", "--amm-blocks")
    assert not Path("samples").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--amm-blocks 2", "--amm-blocks does nothing without --amm"),
        ("--amm-form cos", "--amm-form does nothing without --amm"),
        ("--amm nan", "is not auto or a radius in tokens"),
        ("--amm -1", "is not auto or a radius in tokens"),
        ("--amm auto --amm-blocks 0,2", "block 0 has mediators"),
        ("--amm auto --amm-blocks 2,9", "AMM block 9 does not exist"),
        ("--amm auto --amm-blocks 3,2", "must be rising"),
        ("--amm auto --amm-blocks two", "'two' is not one of"),
        ("--cfg-power 4", "not for SiT"),
    ],
)
def test_bad_wishes_are_refused_before_anything_is_written(
    run_cli: RunCli, empty_folder: Path, words: str, error: str
) -> None:
    save(empty_folder / "sit.safetensors", SIT)
    refused(run_cli("sample", "sit.safetensors", *QUICK, *words.split()), ExitCode.USAGE, error)
    assert not Path("samples").exists()


def test_a_grid_too_small_for_amm_is_named(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "edt.safetensors", EDT)
    result = run_cli("sample", "edt.safetensors", *QUICK, "--amm", "auto", "--amm-blocks", "2")
    refused(result, ExitCode.USAGE, "that of block 2 has 2")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spoil", ["missing", "misshapen"])
def test_a_damaged_checkpoint_is_refused_by_the_name_of_its_tensor(
    run_cli: RunCli, empty_folder: Path, family: str, spoil: str
) -> None:
    state = state_of(FAMILIES[family])
    name = "down_blocks.1.reduction.weight" if family == "edt" else "de_blocks.1.skip_linear.weight"
    if spoil == "missing":
        del state[name]
    else:
        state[name] = state[name][:, 1:].clone()
    torch.save(state, "bad.pt")
    refused(run_cli("inspect", "bad.pt"), ExitCode.CHECKPOINT, name)

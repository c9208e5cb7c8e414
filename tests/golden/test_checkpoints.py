"""Files of other programs give the outputs their own code gives (golden kind 8, and kind 3's resolution change)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import medcli
from medcli.checkpoint.reader import describe, open_checkpoint
from medcli.errors import CheckpointError
from medcli.model.layout import tensor_shapes
from medcli.presets import preset_config
from medcli.runtime.torchvision_guard import import_torchvision
from medcli.settings.checkpoints import ConvertRequest
from medcli.settings.network import NetworkSource
from medcli.workflows.convert import convert
from tests.unit.runtime.test_precision import Notes

DATA = Path(__file__).parent / "data"
FILES = DATA / "checkpoints"
INDEX = json.loads((FILES / "index.json").read_text())
IO = load_file(FILES / "io.safetensors")

# file, weights, heads the tensors can't tell, time input, recorded output
CASES = [
    ("dit_raw.pt", "ema", 2, "t_int", "dit_raw.out"),
    ("sit_train.pt", "ema", 2, "t_float", "sit_train.ema.out"),
    ("sit_train.pt", "model", 2, "t_float", "sit_train.model.out"),
    ("mediator_epoch_004.pt", "ema", None, "t_float", "mediator_epoch.ema.out"),
    ("mediator_epoch_004.pt", "model", None, "t_float", "mediator_epoch.model.out"),
    ("diffusers_dit", "ema", None, "t_int", "dit_raw.out"),
    ("diffusers_dit_legacy", "ema", None, "t_int", "dit_raw.out"),
]
each_case = pytest.mark.parametrize(("name", "weights", "heads", "time", "recorded"), CASES)


def output_of(path: Path, time: str, **options: object) -> torch.Tensor:
    model = medcli.load(path, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        return model(IO["x"], IO[time], IO["y"])


@each_case
def test_a_foreign_file_gives_the_recorded_output(
    name: str, weights: str, heads: int | None, time: str, recorded: str
) -> None:
    actual = output_of(FILES / name, time, weights=weights, num_heads=heads)
    torch.testing.assert_close(actual, IO[recorded], **INDEX["tolerance"])


@each_case
def test_a_repack_gives_the_same_output_bit_for_bit(
    name: str, weights: str, heads: int | None, time: str, recorded: str, tmp_path: Path
) -> None:
    request = ConvertRequest(
        network=NetworkSource(checkpoint=FILES / name, layers="none", weights=weights, heads=heads),
        output=tmp_path / "repacked.safetensors",
    )
    report = convert(request)
    before = output_of(FILES / name, time, weights=weights, num_heads=heads)
    assert torch.equal(output_of(report.output, time), before)


@pytest.mark.parametrize("name", list(INDEX["files"]))
def test_the_geometry_is_read_from_the_tensors(name: str) -> None:
    settings = INDEX["files"][name]["model"]
    config = describe(FILES / name, num_heads=None if "mediator_num" in settings else 2).config
    expected = {
        "latent_size": settings["input_size"],
        "mediators": (settings["mediator_num"],) if "mediator_num" in settings else (),
        "family": "sit" if name.startswith(("sit", "mediator")) else "dit",
        **{key: value for key, value in settings.items() if hasattr(config, key)},
    }
    assert {key: getattr(config, key) for key in expected} == expected


def test_both_diffusers_spellings_hold_the_tensors_of_the_original() -> None:
    original = medcli.load(FILES / "dit_raw.pt", num_heads=2).state_dict()
    for folder in ("diffusers_dit", "diffusers_dit_legacy"):
        state = medcli.load(FILES / folder).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in original.items())


def test_our_diffusers_folder_holds_the_tensors_diffusers_wrote(tmp_path: Path) -> None:
    convert(
        ConvertRequest(
            network=NetworkSource(checkpoint=FILES / "dit_raw.pt", heads=2), output=tmp_path / "out", to="diffusers"
        )
    )
    name = "transformer/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(tmp_path / "out" / name), load_file(FILES / "diffusers_dit" / name)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_another_resolution_changes_the_tensors_and_the_output_as_recorded(tmp_path: Path) -> None:
    settings = json.loads((DATA / "sit_med_n4_hires_32/config.json").read_text())
    changed = load_file(DATA / "sit_med_n4_hires_32/after_changed.safetensors")
    io = load_file(DATA / "sit_med_n4_hires_32/io.safetensors")
    source = DATA / "sit_med_n4/weights.safetensors"
    report = convert(
        ConvertRequest(
            network=NetworkSource(checkpoint=source, res=32 * 8, family="sit", positions="anew"),
            output=tmp_path / "hires.safetensors",
        )
    )
    assert sorted(report.resized) == sorted(settings["changed_keys"])
    after = load_file(report.output)
    before = load_file(source)
    for name, tensor in after.items():
        if name in changed:
            torch.testing.assert_close(tensor, changed[name], **settings["tolerance"])
        else:
            assert torch.equal(tensor, before[name])
    with torch.no_grad():
        out = medcli.load(report.output)(io["x"], io["t"], io["y"])
    torch.testing.assert_close(out, io["out"], rtol=1e-4, atol=2e-5)


def test_wrapper_prefixes_are_stripped(tmp_path: Path) -> None:
    state = medcli.load(FILES / "dit_raw.pt", num_heads=2).state_dict()
    path = tmp_path / "dit.safetensors"
    save_file({f"_orig_mod.module.{name}": tensor.clone() for name, tensor in state.items()}, path)
    assert torch.equal(output_of(path, "t_int", num_heads=2), output_of(FILES / "dit_raw.pt", "t_int", num_heads=2))


def test_diffusers_opens_our_folder_as_a_pipeline(tmp_path: Path) -> None:
    import_torchvision()
    from diffusers import AutoencoderKL, DiTPipeline

    # Its null class is always the thousandth.
    config = medcli.ModelConfig(family="dit", hidden_size=16, depth=1, num_heads=2, latent_size=4)
    medcli.save(medcli.new(config), tmp_path / "dit.safetensors")
    source = NetworkSource(checkpoint=tmp_path / "dit.safetensors")
    notes = Notes()
    convert(ConvertRequest(network=source, output=tmp_path / "out", to="diffusers"), notes)
    assert any("k/127 instead of k/128" in text for text in notes.notes)
    vae: Any = AutoencoderKL(block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                             up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=2)  # fmt: skip
    pipeline: Any = DiTPipeline
    opened = pipeline.from_pretrained(str(tmp_path / "out"), vae=vae)
    opened.set_progress_bar_config(disable=True)
    images = opened([1], num_inference_steps=2, output_type="np").images
    assert images.shape[0] == 1


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda name: name.replace("en_inblocks", "en_blocks"), "one list of blocks"),
        (lambda name: name, "1 tensors more"),
    ],
)
def test_mdts_first_version_is_named(tmp_path: Path, rename: Callable[[str], str], message: str) -> None:
    config = preset_config("MDTv2-S/2")
    config = replace(config, depth=4, decoder_depth=2, hidden_size=24, num_heads=2, latent_size=4, num_classes=3)
    state = {rename(name): torch.randn(shape) for name, shape in tensor_shapes(config).items()}
    torch.save({**state, "en_extra.weight": torch.ones(2)}, tmp_path / "mdt_xl2_v1_ckpt.pt")
    with pytest.raises(CheckpointError, match=f"MDT's first version, not an MDTv2: .*{message}"):
        open_checkpoint(tmp_path / "mdt_xl2_v1_ckpt.pt")

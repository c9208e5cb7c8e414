"""Make good inputs of every reader, small ones, with the program itself."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from tests.golden.peers_support import PEERS

SAMPLE = ("sample", "pix.safetensors", "--num-images", "6", "--steps", "6", "--rho", "0.98,0.9", "-o", "samp", "-q")
TRAIN = (
    *(
        "finetune",
        "pix.safetensors",
        "--data",
        "digits",
        "--steps",
        "4",
        "--save-every",
        "2",
        "--global-batch-size",
        "4",
    ),
    *("--preview-every", "0", "-o", "run", "-q"),
)
LATENTS = (
    "latents",
    "photos",
    "--vae",
    "vae",
    "--res",
    "32",
    "--shard-size",
    "4",
    "--device",
    "cpu",
    "-o",
    "store",
    "-q",
)
TUNE = (
    "tune",
    "pix.safetensors",
    "--calls",
    "2",
    "--num-images",
    "3",
    "--mediators",
    "4",
    "--fit",
    "-o",
    "t",
    "-q",
)
PLANNED = (
    *("sample", "pix.safetensors", "--num-images", "1", "--sampler", "ode", "--schedule", "timed"),
    *("--mediators", "1,4", "--at", "0.5", "--steps", "4", "--save-plan", "plan.json", "-o", "planned", "-q"),
)
SHARDS = tuple((*SAMPLE[:-3], "--shard", f"{number}/2", "-o", f"part-{number}", "-q") for number in (0, 1))
SCORED = ("fid", "samp", "-q")
ANALYZE = ("analyze", "pix.safetensors", "--num-images", "2", "--steps", "6", "--points", "2", "-o", "a", "-f", "-q")
SCORE = ("fid", "s.npz", "digits", "-q")
CLASSIFIER = ("fid", "--train-extractor", "photos", "-o", "own.safetensors", "-f", "-q")
REFERENCE = ("fid", "s.npz", "--extractor", "digits", "--write-reference", "ref.npz", "-f", "-q")
CONVERTED = (
    "convert",
    "sit.pt",
    "--heads",
    "2",
    "--layers",
    "none",
    "--family",
    "dit",
    "--to",
    "diffusers",
    "-o",
    "dit",
    "-q",
)

CONFIG = """\
num-images = 2
steps = 4
seed = 3
cfg-scale = 1.5
classes = "1,2"
rho = "0.9,0.5"
output = "o"
"""


def make_files(folder: Path) -> None:
    """Write checkpoints, images, labels and statistics into the current folder."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from medcli.config import ModelConfig
    from tests.unit.data.test_autoencoder import save_tiny_autoencoder
    from tests.unit.engine.tiny import PIXELS, save, state_of, with_ladder

    save(folder / "pix.safetensors", sampling={"steps": 6, "cfg_scale": 1.5}, reference="digits")
    timed = {"sampler": "ode", "solver": "adams2", "schedule": "timed", "mediators": [1, 4], "at": [0.5], "steps": 6}
    save(folder / "timed.safetensors", sampling=timed)
    rgb = replace(with_ladder(PIXELS), in_channels=3, num_classes=2, depth=1)
    save(folder / "rgb.safetensors", rgb)
    official = ModelConfig(family="sit", hidden_size=16, depth=1, num_heads=2, latent_size=4, num_classes=2)
    save(folder / "lat.safetensors", official)
    state = state_of(official)
    torch.save({"model": state, "ema": state, "args": {"model": "SiT-S/2", "lr": 1e-4}}, folder / "sit.pt")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(state, folder / "bare.safetensors")
    draw = np.random.default_rng(0)
    for name, endings in {"cat": ("png", "jpg", "webp"), "dog": ("bmp", "tif", "gif")}.items():
        (folder / "photos" / name).mkdir(parents=True)
        for ending in endings:
            pixels = draw.integers(0, 256, (33, 35, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"0.{ending}")
    files = sorted(str(path.relative_to(folder / "photos")) for path in (folder / "photos").glob("*/*"))
    (folder / "photos/labels.csv").write_text("".join(f"{file},{number % 2}\n" for number, file in enumerate(files)))
    pairs = ", ".join(f'["{file}", {number % 2}]' for number, file in enumerate(files))
    (folder / "photos/labels.json").write_text('{"labels": [' + pairs + "]}")
    np.savez(folder / "s.npz", draw.integers(0, 256, (70, 8, 8, 3), dtype=np.uint8))
    (folder / "config.toml").write_text(CONFIG)
    save_tiny_autoencoder(folder / "vae")
    save_module(folder / "net.pt")
    copy_peers(folder)


def save_module(path: Path) -> None:
    """Write a TorchScript module that extracts features."""
    import warnings

    import torch

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network).save(str(path))


def copy_peers(folder: Path) -> None:
    """Copy files that other projects wrote: of REPA, LightningDiT with what is beside its checkpoint, and VA-VAE."""
    (folder / "ld").mkdir()
    for source, name in {
        "repa_qknorm/0000002.pt": "repa.pt",
        "ldit_qknorm/lightningdit-tiny.pt": "ld/tiny.pt",
        "ldit_qknorm/config.yaml": "ld/tiny.yaml",
        "ldit_latents/latents_stats.pt": "ld/latents_stats.pt",
        "vavae/vavae-tiny.pt": "vavae.pt",
    }.items():
        shutil.copy(PEERS / source, folder / name)


def leave_slots(folder: Path) -> None:
    """Copy the sample folder as a kill leaves it that hit a run to eight images with an archive."""
    from medcli.engine.archive_slots import ArchiveSlots
    from medcli.engine.pictures import read_png

    shutil.copytree(folder / "samp", folder / "slots")
    slots = ArchiveSlots(folder / "slots", 8, 8)
    for index in range(4):
        slots.put(index, read_png(folder / f"samp/{index:06d}.png"))
    slots.close()


def name_classes(path: Path) -> None:
    """Add class names to a diffusers pipeline, as published ones have them."""
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "id2label": {"0": "cat, house cat", "1": "dog"}}))


def make_good_inputs(folder: Path, run: Callable[..., int]) -> None:
    """Fill the current folder with good inputs; `run` is the program's main and says 0.

    Raises:
        AssertionError: If a command does not succeed.
    """
    make_files(folder)
    for command in (CONVERTED, SAMPLE, *SHARDS, SCORED, PLANNED, TRAIN, LATENTS, TUNE, ANALYZE, REFERENCE, CLASSIFIER):
        assert run(command) == 0, command
    leave_slots(folder)
    name_classes(folder / "dit/model_index.json")
    scores = io.StringIO()
    with redirect_stdout(scores):
        assert run((*SCORE, "--json")) == 0
    (folder / "scores.json").write_text(scores.getvalue())

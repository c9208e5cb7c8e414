"""Which images a data set holds and what class each has, found without opening more than a sample of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from medcli.data.images import SUFFIXES
from medcli.data.label_file import find_label_file, read_labels
from medcli.data.name_list import NameList
from medcli.errors import DataError, listed
from medcli.runtime.reporting import Reporter

TRAINING_SUFFIXES = SUFFIXES | {".bmp", ".ppm", ".pgm", ".tif", ".tiff"}
"""Files that are images to torchvision's ImageFolder, which the references read their data with."""

SAMPLE_SIZE = 1000
"""Images whose size and header are looked at before anything runs, evenly spaced; the rest are met when read."""

LAYOUT_HINT = "use one sub-folder a class, or a labels.json or labels.csv beside the images"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageListing:
    """Labelled image files under one folder."""

    root: Path
    """What the names are relative to."""
    names: NameList
    """Paths of the images, sorted by class folder and name, or by name where a file gives the labels."""
    labels_N: npt.NDArray[np.int64]
    """(N,) class of each image, from 0."""
    fingerprint: str
    """SHA-256 of names, labels, and the sizes in bytes of a sample of the files."""

    @property
    def num_images(self) -> int:
        """How many images there are: N."""
        return len(self.names)

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels_N.max()) + 1

    def path(self, index: int) -> Path:
        """Where an image lies."""
        return self.root / self.names[index]


def list_images(path: Path, reporter: Reporter) -> ImageListing:
    """List the images of a folder, or those a file of labels names.

    A folder is read as torchvision's ImageFolder does: each sub-folder is a class, numbered in sorted order, and images
    may lie at any depth in it. A file of labels in the folder (`medcli.data.label_file.LABEL_FILES`) has the say
    instead; so has one that is itself the path.

    Args:
        path: The folder, or a `.json` or `.csv` file of labels, whose paths are relative to its folder.
        reporter: Told of images that are left out.

    Raises:
        DataError: If there are no labelled images, files are missing, or some of a sample of them are damaged.
    """
    label_file = find_label_file(path) if path.is_dir() else path
    root = path if path.is_dir() else path.parent
    if label_file is None:
        names, labels_N = _by_folder(root, reporter)
    else:
        names, labels_N = _by_file(root, label_file, reporter)
    sizes = _check_sample(root, names)
    digest = hashlib.sha256()
    for part in (*names.digest_parts(), labels_N.tobytes(), repr(sizes).encode()):
        digest.update(part)
    return ImageListing(root=root, names=names, labels_N=labels_N, fingerprint=digest.hexdigest())


def _by_folder(root: Path, reporter: Reporter) -> tuple[NameList, npt.NDArray[np.int64]]:
    """Every sub-folder is a class."""
    with os.scandir(root) as entries:
        found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    classes = sorted(name for name, is_folder in found if is_folder)
    loose = [name for name, is_folder in found if not is_folder and _is_image_name(name)]
    if not classes:
        what = "images but no classes" if loose else "no images"
        raise DataError(f"{root} holds {what}", hint=LAYOUT_HINT)
    counts: list[int] = []

    def of_all_classes() -> Iterator[str]:
        for name in classes:
            members = _images_under(root, name)
            counts.append(len(members))
            yield from members

    names = NameList(of_all_classes())
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise DataError(
            f"{root} has {len(empty)} class folders without images: {listed(empty)}",
            hint=f"remove them, or {LAYOUT_HINT}",
        )
    if loose:
        reporter.note(f"{len(loose)} images of {root} lie outside its class folders and are left out: {listed(loose)}")
    return names, np.repeat(np.arange(len(classes)), counts)


def _by_file(root: Path, label_file: Path, reporter: Reporter) -> tuple[NameList, npt.NDArray[np.int64]]:
    """A file names the images and their classes."""
    labels = read_labels(label_file)
    there = set(_images_under(root, "."))
    # Paths may lead out of the folder, and names may have any ending: those are looked up one by one.
    if missing := [name for name in labels if name not in there and not (root / name).is_file()]:
        raise DataError(
            f"{len(missing)} of the {len(labels)} images {label_file} names are not there, the first is {missing[0]}",
            hint=f"paths are relative to {root}",
        )
    if num_unnamed := len(there - labels.keys()):
        reporter.note(f"{num_unnamed} images of {root} are not in {label_file.name} and are left out")
    return NameList(labels), np.fromiter(labels.values(), dtype=np.int64, count=len(labels))


def _images_under(root: Path, name: str) -> list[str]:
    """Image files in a folder, at any depth: those of each folder together, in sorted order."""
    folders, members = [name], []
    found: dict[str, list[str]] = {}
    while folders:
        folder = folders.pop()
        files = found.setdefault(folder, [])
        prefix = "" if folder == "." else f"{folder}/"
        with os.scandir(root / folder) as entries:
            for entry in entries:
                # A million times: what is named like an image is taken for one without another look.
                if _is_image_name(entry.name):
                    files.append(prefix + entry.name)
                elif entry.is_dir():
                    folders.append(prefix + entry.name)
    for folder in sorted(found):
        members += sorted(found[folder])
    return members


def _is_image_name(name: str) -> bool:
    return name[name.rfind(".") :].lower() in TRAINING_SUFFIXES and name[0] != "."


def _check_sample(root: Path, names: NameList) -> list[int]:
    """Sizes in bytes of evenly spaced images, all of which start as images do.

    Raises:
        DataError: With the number of those that do not, and the first.
    """
    count = min(len(names), SAMPLE_SIZE)
    sample = [root / names[place * len(names) // count] for place in range(count)]
    if damaged := [path for path in sample if not _has_image_header(path)]:
        raise DataError(
            f"{len(damaged)} of {count} image files looked at are no images, the first is {damaged[0]}",
            hint="remove them, or make them again",
        )
    return [path.stat().st_size for path in sample]


def _has_image_header(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError):
        return False

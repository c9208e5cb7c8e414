"""List the images of a training set and their classes, opening only a sample of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medcli.data.image_files import (
    SUFFIXES,
    FolderContent,
    content_remarks,
    find_images,
    read_header,
    rotation_remark,
    unreadable,
)
from medcli.data.label_file import find_label_file, read_labels
from medcli.data.name_list import NameList
from medcli.errors import DataError, listed
from medcli.runtime.files import file_end, require_regular
from medcli.runtime.reporting import Reporter

SAMPLE_SIZE = 1000
"""Images whose size and header are checked first, evenly spaced; the others are checked when read."""

NUM_HASHED = 64
"""Images of the sample whose ends are part of the fingerprint."""

LAYOUT_HINT = "use one sub-folder a class, or a labels.json or labels.csv beside the images"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageListing:
    """Labelled image files under one folder."""

    root: Path
    """Folder the names are relative to."""
    names: NameList
    """Paths of the images, sorted by class folder and name, or by name where a file gives the labels."""
    labels_N: npt.NDArray[np.int64]
    """(N,) class of each image, from 0."""
    fingerprint: str
    """SHA-256 of names, labels, the sizes in bytes of a sample of the files, and the last bytes of some."""
    class_names: tuple[str, ...] = ()
    """Names of the class folders; empty if a file gives the labels."""

    @property
    def num_images(self) -> int:
        """Number of images, N."""
        return len(self.names)

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels_N.max()) + 1

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.root / self.names[index]


def list_images(path: Path, reporter: Reporter) -> ImageListing:
    """List the images of a folder, or those a file of labels names.

    A folder is read as torchvision's ImageFolder does: each sub-folder is a class, numbered in sorted order, and images
    may be at any depth in it; without sub-folders all images are one class. A file of labels in the folder
    (`medcli.data.label_file.LABEL_FILES`), or given as the path, takes precedence.

    Args:
        path: The folder, or a `.json` or `.csv` file of labels, whose paths are relative to its folder.
        reporter: Gets remarks on images that are left out.

    Raises:
        DataError: If there are no labelled images, files are missing, or some of a sample of them are damaged.
        EnvironmentProblem: If a file can't be read.
    """
    require_regular(path)
    label_file = find_label_file(path) if path.is_dir() else path
    root = path if path.is_dir() else path.parent
    if label_file is None:
        names, labels_N, class_names = _by_folder(root, reporter)
    else:
        names, labels_N = _by_file(root, label_file, reporter)
        class_names = ()
    sizes, ends = _check_sample(root, names, reporter)
    digest = hashlib.sha256()
    for part in (*names.digest_parts(), labels_N.tobytes(), repr(sizes).encode(), *ends):
        digest.update(part)
    return ImageListing(
        root=root, names=names, labels_N=labels_N, fingerprint=digest.hexdigest(), class_names=class_names
    )


def _by_folder(root: Path, reporter: Reporter) -> tuple[NameList, npt.NDArray[np.int64], tuple[str, ...]]:
    """List a folder with one subfolder per class; returns paths, labels and the classes' names."""
    try:
        with os.scandir(root) as members:
            found = [(member.name, member.is_dir()) for member in members if not member.name.startswith(".")]
        visited = {_identity(root): str(root)}
    except OSError as err:
        raise unreadable(root, err) from err
    classes = []
    for name in sorted(name for name, is_folder in found if is_folder):
        other = visited.setdefault(_identity(root / name), name)
        if other == str(root):
            reporter.note(f"{root / name} leads back to {root} and is not followed")
        elif other != name:
            raise DataError(f"{root / name} and {root / other} are the same folder", hint="remove one of the two links")
        else:
            classes.append(name)
    loose = [name for name, is_folder in found if not is_folder and Path(name).suffix.lower() in SUFFIXES]
    if not classes and not loose:
        raise DataError(f"{root} holds no images", hint=LAYOUT_HINT)
    if not classes:
        reporter.note(f"{root} has no class folders: its {len(loose)} images are one class, number 0")
        return NameList(sorted(loose)), np.zeros(len(loose), dtype=np.int64), ()
    seen = {_identity(root)}
    contents: list[FolderContent] = []

    def of_all_classes() -> Iterator[str]:
        for name in classes:
            contents.append(find_images(root, name, seen))
            counts.append(len(contents[-1].names))
            yield from contents[-1].names
            contents[-1].names.clear()

    counts: list[int] = []
    names = NameList(of_all_classes())
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise DataError(
            f"{root} has {len(empty)} class folders without images: {listed(empty)}",
            hint=f"remove them, or {LAYOUT_HINT}",
        )
    for remark in content_remarks(root, contents):
        reporter.note(remark)
    if all(name.isascii() and name.isdigit() for name in classes) and classes != sorted(classes, key=int):
        moved = next(number for number, name in enumerate(classes) if int(name) != number)
        reporter.note(
            f"the class folders of {root} are numbered in the order of their names as text: class {moved} is "
            f"{classes[moved]}/; a labels.json can give other numbers"
        )
    if loose:
        reporter.note(f"{len(loose)} images of {root} are outside its class folders and are skipped: {listed(loose)}")
    return names, np.repeat(np.arange(len(classes)), counts), tuple(classes)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _by_file(root: Path, label_file: Path, reporter: Reporter) -> tuple[NameList, npt.NDArray[np.int64]]:
    """List the images named by a file of labels."""
    labels = read_labels(label_file)
    there = set(find_images(root).names)
    # Paths may lead out of the folder, and names may have any suffix: those are looked up one by one.
    if missing := [name for name in labels if name not in there and not (root / name).is_file()]:
        raise DataError(
            f"{len(missing)} of the {len(labels)} images {label_file} names are missing, the first is {missing[0]}",
            hint=f"paths are relative to {root}",
        )
    if num_unnamed := len(there - labels.keys()):
        reporter.note(f"{num_unnamed} images of {root} are not in {label_file.name} and are left out")
    return NameList(labels), np.fromiter(labels.values(), dtype=np.int64, count=len(labels))


def _check_sample(root: Path, names: NameList, reporter: Reporter) -> tuple[list[int], list[bytes]]:
    """Check the headers of evenly spaced images, and return their sizes in bytes and the ends of some.

    Raises:
        DataError: If some are not images: how many, and the first.
        EnvironmentProblem: If one can't be read.
    """
    count = min(len(names), SAMPLE_SIZE)
    sample = [root / names[place * len(names) // count] for place in range(count)]
    problems: list[DataError] = []
    num_rotated = 0
    for path in sample:
        try:
            num_rotated += read_header(path).is_rotated
        except DataError as err:
            problems.append(err)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        first = problems[0]
        raise DataError(f"{len(problems)} of {count} checked images are unusable: {first.message}", hint=first.hint)
    if num_rotated:
        reporter.note(f"{root}: {rotation_remark(num_rotated, count)}")
    return [path.stat().st_size for path in sample], [file_end(path) for path in sample[:: -(-count // NUM_HASHED)]]

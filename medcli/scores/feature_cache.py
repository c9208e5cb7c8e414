"""Features cached on disk, a file for each shard of images, under a hash of the images.

A file's name is a hash of the pixels of its images, of the extractor, its weights and its preprocessing, so that
renamed folders, copies and the same images in an npz are found, and a changed image is not. The hashes of decoded
images are kept too, under the names, sizes, times and last bytes of their files, so that images that did not change
are not decoded again. Files are safetensors, appear whole or not at all, and hold the float32 features from which all
others follow: `pool`, and `spatial` where there is such a layer. Rows take less room than moments (2023 x 2023
float64 are 33 MB, 1024 rows 8 MB), and error bars need them. A set of 50,000 images takes 0.8 GB under Inception;
above a limit, files not used for longest are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from medcli.errors import ConfigError, EnvironmentProblem
from medcli.runtime.files import write_bytes
from medcli.runtime.json_records import parse_json
from medcli.runtime.temporaries import sweep
from medcli.runtime.tensor_files import write_tensors
from medcli.scores.extractor import FeatureExtractor, kinds_to_store

SUFFIX = ".safetensors"
HEADER = "medcli"
FOLDER_VARIABLE = "MEDCLI_CACHE"
"""Environment variable that names another folder than the default."""
IDENTITIES = "identities"
"""Folder of the digests of decoded images."""
DIGEST_BYTES = 32
IN_USE_S = 3600
"""Seconds within which a file was used that a pass may still need."""
VERSION = 1
"""Part of every key: raised when the same images would no longer give the same features."""


def default_cache_folder() -> Path:
    """Return `$MEDCLI_CACHE`, else `~/.cache/medcli/features`. It need not exist."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "medcli" / "features"


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSize:
    """Size of a cache."""

    num_files: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """A folder of feature files; several processes may use it at once."""

    folder: Path
    """Made when the first file is written."""
    shard_images: int = 1024
    """Most images of a file. Other values find other files."""
    max_bytes: int | None = None
    """Size above which `trim` removes files; None: no limit."""

    def key(self, extractor: FeatureExtractor, digests: Sequence[bytes]) -> str:
        """Return the name of the features of some images.

        Args:
            digests: SHA-256 of each image, in order.
        """
        about = {**_about(extractor), "images": [digest.hex() for digest in digests]}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def path(self, extractor: FeatureExtractor, key: str) -> Path:
        """Return the file of a key."""
        return self.folder / extractor.name / (key + SUFFIX)

    def has(self, extractor: FeatureExtractor, key: str) -> bool:
        """Return True if there is a file of a key; `load` checks it."""
        return self.path(extractor, key).is_file()

    def load(
        self, extractor: FeatureExtractor, key: str, num_images: int, kinds: Collection[str] | None = None
    ) -> dict[str, torch.Tensor] | None:
        """Read features.

        Args:
            key: As `key` gives it.
            num_images: Images they are of.
            kinds: Kinds of features to read; None reads all that are stored.

        Returns:
            (images, width) float32 by kind, or None if the file is missing or its header, shapes or checksums are not
            those that were written.
        """
        path = self.path(extractor, key)
        if not self.has(extractor, key):  # a pipe in its place would never end
            return None
        try:
            with safe_open(path, "pt") as file:
                header = parse_json((file.metadata() or {})[HEADER])
                kinds = kinds_to_store(extractor) if kinds is None else kinds
                rows = {kind: file.get_tensor(kind) for kind in kinds}
            sums = header.pop("sha256")
            is_whole = header == {**_about(extractor), "num_images": num_images} and all(
                found.shape == (num_images, extractor.dims[kind])
                and found.dtype == torch.float32
                and _checksum(found) == sums[kind]
                and bool(torch.isfinite(found).all())
                for kind, found in rows.items()
            )
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not is_whole:
            return None
        self._mark_used(path)
        return rows

    def save(self, extractor: FeatureExtractor, key: str, rows: Mapping[str, torch.Tensor]) -> None:
        """Write features of all stored kinds.

        Raises:
            EnvironmentProblem: If the folder can't be written to or is full.
        """
        header = {
            **_about(extractor),
            "num_images": len(next(iter(rows.values()))),
            "sha256": {kind: _checksum(found) for kind, found in rows.items()},
        }
        write_tensors(self.path(extractor, key), rows, {HEADER: json.dumps(header, sort_keys=True)})

    def digests(self, identity: bytes, num_images: int) -> tuple[bytes, ...] | None:
        """Return the digests kept for image files, None if there are none.

        Args:
            identity: As `ImageSource.identity` gives it.
            num_images: Images they are of.
        """
        path = self._digests_path(identity)
        try:
            content = path.read_bytes() if path.is_file() else b""
        except OSError:
            return None
        parts = [content[start : start + DIGEST_BYTES] for start in range(0, len(content), DIGEST_BYTES)]
        if len(parts) != num_images + 1 or hashlib.sha256(b"".join(parts[:-1])).digest() != parts[-1]:
            return None
        self._mark_used(path)
        return tuple(parts[:-1])

    def keep_digests(self, identity: bytes, digests: Sequence[bytes]) -> None:
        """Keep the digests of decoded image files; where they can't be written, the images are decoded again."""
        content = b"".join(digests)
        with suppress(EnvironmentProblem, ConfigError):
            write_bytes(self._digests_path(identity), content + hashlib.sha256(content).digest(), force=True)

    def _digests_path(self, identity: bytes) -> Path:
        return self.folder / IDENTITIES / f"{identity.hex()}.digests"

    def _mark_used(self, path: Path) -> None:
        """Set a file's time, by which `trim` finds those that are not used."""
        with suppress(OSError):
            os.utime(path)

    def trim(self) -> None:
        """Remove the files not used for longest until the cache is within its limit, none used within the last hour."""
        if self.max_bytes is None:
            return
        states = []
        for file in self._files():
            with suppress(OSError):  # another process may remove it
                states.append((file.stat(), file))
        size, now = sum(state.st_size for state, _ in states), time.time()
        for state, file in sorted(states, key=lambda each: each[0].st_mtime):
            if size <= self.max_bytes or now - state.st_mtime < IN_USE_S:
                return
            with suppress(OSError):
                file.unlink()
            size -= state.st_size

    def _files(self) -> Iterator[Path]:
        yield from self.folder.glob(f"*/[!.]*{SUFFIX}")
        yield from self.folder.glob(f"{IDENTITIES}/[!.]*.digests")

    def size(self) -> CacheSize:
        """Count the files and their bytes."""
        sizes = [file.stat().st_size for file in self._files()]
        return CacheSize(num_files=len(sizes), num_bytes=sum(sizes))

    def sweep(self) -> None:
        """Remove temporary files of killed processes, and what exceeds the limit."""
        self.trim()
        for folder in self.folder.glob("*/"):
            sweep(folder, owned=True)


def _about(extractor: FeatureExtractor) -> dict[str, str | int]:
    return {
        "extractor": extractor.name,
        "weights_sha256": extractor.weights_sha256,
        "preprocessing": extractor.preprocessing,
        "dtype": "float32",
        "version": VERSION,
        # Not on a CPU, whose files are older than this key.
        **({} if extractor.device_type == "cpu" else {"device": extractor.device_type}),
    }


def _checksum(rows: torch.Tensor) -> str:
    return hashlib.sha256(rows.reshape(-1).numpy().data).hexdigest()

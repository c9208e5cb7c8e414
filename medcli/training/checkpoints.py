"""Training checkpoints of a run: safetensors files with all that is needed to resume.

Their tensors are weights, averages and the optimizer's moments; the header key `medcli_training` holds the rest. All
randomness is a function of (seed, step), so there is no generator state to save.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from medcli.errors import CheckpointError, listed
from medcli.runtime.reporting import Reporter
from medcli.runtime.temporaries import sweep
from medcli.runtime.tensor_files import write_tensors

KEY = "medcli_training"
Read = Callable[[str], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointHeader:
    """Header of a training checkpoint."""

    run: dict[str, Any]
    """Settings that a resumed run must not change, JSON values."""
    journal: dict[str, Any]
    """`History.to_json` of the run."""
    scaler: dict[str, Any]
    """State of fp16's gradient scaler; empty for other data types."""
    keys: tuple[str, ...]
    """Names of the tensors, sorted."""
    checksum: int
    """CRC-32 of the tensors' bytes in that order."""

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.journal["done"])

    def require_same_run(self, run: Mapping[str, Any], path: Path) -> None:
        """Refuse to resume with other settings.

        Raises:
            CheckpointError: Naming the settings that differ.
        """
        wanted = json.loads(json.dumps(run))
        changed = sorted(key for key in {*wanted, *self.run} if self.run.get(key) != wanted.get(key))
        if changed:
            names = listed([name.replace("_", " ") for name in changed])
            raise CheckpointError(
                f"{path.parent} was started with a different {names}",
                hint="choose another --output, use the settings it was started with, or start over with --resume never",
            )


def write_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    run: Mapping[str, Any],
    journal: Mapping[str, Any],
    scaler: Mapping[str, Any],
) -> None:
    """Write a training checkpoint, whole or not at all.

    Args:
        path: The file; an existing one is replaced.
        tensors: Tensors by name, on the CPU.
        run: As in `CheckpointHeader`.
        journal: As there.
        scaler: As there.
    """
    plain = {name: tensors[name].contiguous() for name in sorted(tensors)}
    header = CheckpointHeader(
        run=dict(run), journal=dict(journal), scaler=dict(scaler), keys=tuple(plain), checksum=_checksum(plain.values())
    )
    write_tensors(path, plain, {KEY: json.dumps(asdict(header), sort_keys=True)})


def read_header(path: Path) -> CheckpointHeader:
    """Read a training checkpoint's header and verify the checksum of its tensors.

    Raises:
        CheckpointError: If it is missing, damaged or no training checkpoint.
    """
    with open_training_checkpoint(path) as (header, read):
        if _checksum(read(key) for key in header.keys) != header.checksum:
            raise CheckpointError(f"{path} is damaged: the checksum of its tensors is wrong")
    return header


@contextmanager
def open_training_checkpoint(path: Path) -> Iterator[tuple[CheckpointHeader, Read]]:
    """Open a training checkpoint.

    Yields:
        Its header, and a function that reads a tensor by its name.

    Raises:
        CheckpointError: If it is missing, damaged or no training checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()[KEY])
            yield CheckpointHeader(**{**values, "keys": tuple(values["keys"])}), file.get_tensor
    except CheckpointError:
        raise
    except Exception as err:
        raise CheckpointError(f"{path} is not a readable training checkpoint: {err or type(err).__name__}") from err


def _checksum(tensors: Iterable[Tensor]) -> int:
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return total


NAME = "state-{step:08d}.safetensors"
PATTERN = re.compile(r"state-(\d{8,})\.safetensors")


class CheckpointFolder:
    """Training checkpoints in a run's folder: one file each, of which the newest are kept.

    Args:
        folder: Folder of the run.
        run: Settings that all checkpoints of this run share, JSON values.
        keep_last: Number of checkpoints kept.
        reporter: Receives notes about damaged files.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], keep_last: int, reporter: Reporter) -> None:
        self._folder, self._run, self._keep_last, self._reporter = folder, run, keep_last, reporter

    def steps(self) -> list[int]:
        """Steps of the checkpoints, rising."""
        if not self._folder.is_dir():
            return []
        return sorted(int(match[1]) for path in self._folder.iterdir() if (match := PATTERN.fullmatch(path.name)))

    def path_of(self, step: int) -> Path:
        """Return the file of a checkpoint."""
        return self._folder / NAME.format(step=step)

    def save(self, tensors: Mapping[str, Tensor], journal: Mapping[str, Any], scaler: Mapping[str, Any]) -> None:
        """Save a checkpoint; remove the oldest ones, and later ones that a rollback has left behind."""
        step = journal["done"]
        write_checkpoint(self.path_of(step), tensors, run=self._run, journal=journal, scaler=scaler)
        kept = [other for other in self.steps() if other <= step][-self._keep_last :]
        for other in set(self.steps()) - set(kept):
            self.path_of(other).unlink(missing_ok=True)

    def newest(self) -> tuple[Path, CheckpointHeader] | None:
        """Return the newest undamaged checkpoint; damaged ones are noted and skipped. None if there is none at all.

        Raises:
            CheckpointError: If all are damaged, or they are another run's.
        """
        steps = self.steps()
        problem: CheckpointError | None = None
        for step in reversed(steps):
            path = self.path_of(step)
            try:
                header = read_header(path)
            except CheckpointError as err:
                problem = err
                self._reporter.note(f"{err.message}; using the one before it")
                continue
            header.require_same_run(self._run, path)
            return path, header
        if problem is not None:
            raise CheckpointError(
                f"no training checkpoint in {self._folder} can be read", hint="start over with --resume never"
            ) from problem
        return None

    def at(self, path: Path) -> tuple[Path, CheckpointHeader]:
        """Return a checkpoint by its path, or the newest undamaged one of a folder.

        Raises:
            CheckpointError: If there is none, it is damaged or another run's.
        """
        if path.is_dir():
            found = CheckpointFolder(path, self._run, self._keep_last, self._reporter).newest()
            if found is None:
                raise CheckpointError(f"{path} holds no training checkpoint", hint="name a state-*.safetensors")
            return found
        header = read_header(path)
        header.require_same_run(self._run, path)
        return path, header

    def clean(self) -> None:
        """Remove temporary files of killed processes; no other process may use the folder."""
        sweep(self._folder, owned=True)

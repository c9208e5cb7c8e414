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
class StateHeader:
    """What a state says of itself."""

    run: dict[str, Any]
    """What a run that goes on from here must share, JSON values."""
    journal: dict[str, Any]
    """`History.to_json` of the run so far."""
    scaler: dict[str, Any]
    """State of fp16's loss scaling; empty without."""
    keys: tuple[str, ...]
    """Names of the tensors, sorted."""
    checksum: int
    """CRC-32 of the tensors' bytes in that order."""

    @property
    def step(self) -> int:
        """Steps that are done."""
        return int(self.journal["done"])

    def require_same_run(self, run: Mapping[str, Any], path: Path) -> None:
        """Refuse to go on with another run.

        Raises:
            CheckpointError: If something differs; it is named.
        """
        wanted = json.loads(json.dumps(run))
        changed = sorted(key for key in {*wanted, *self.run} if self.run.get(key) != wanted.get(key))
        if changed:
            names = listed([name.replace("_", " ") for name in changed])
            raise CheckpointError(
                f"{path.parent} holds a run with another {names}",
                hint="choose another --output, the settings it was started with, or --resume never to start over",
            )


def write_state(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    run: Mapping[str, Any],
    journal: Mapping[str, Any],
    scaler: Mapping[str, Any],
) -> None:
    """Write a state, whole or not at all.

    Args:
        path: The file; replaced if it is there.
        tensors: On the CPU.
        run: See `StateHeader`, as are the others.
        journal: See there.
        scaler: See there.
    """
    plain = {name: tensors[name].contiguous() for name in sorted(tensors)}
    header = StateHeader(
        run=dict(run), journal=dict(journal), scaler=dict(scaler), keys=tuple(plain), checksum=_checksum(plain.values())
    )
    write_tensors(path, plain, {KEY: json.dumps(asdict(header), sort_keys=True)})


def read_header(path: Path) -> StateHeader:
    """Read a state's header, and make sure that the file is whole.

    Raises:
        CheckpointError: If it is missing, damaged or no training state.
    """
    with open_state(path) as (header, read):
        if _checksum(read(key) for key in header.keys) != header.checksum:
            raise CheckpointError(f"{path} is damaged: its tensors are not those that were saved")
    return header


@contextmanager
def open_state(path: Path) -> Iterator[tuple[StateHeader, Read]]:
    """Open a state.

    Yields:
        Its header, and what reads a tensor by its name.

    Raises:
        CheckpointError: If it is missing, damaged or no training state.
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()[KEY])
            yield StateHeader(**{**values, "keys": tuple(values["keys"])}), file.get_tensor
    except CheckpointError:
        raise
    except Exception as err:
        raise CheckpointError(f"{path} is not a readable training state: {err or type(err).__name__}") from err


def _checksum(tensors: Iterable[Tensor]) -> int:
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return total


NAME = "state-{step:08d}.safetensors"
PATTERN = re.compile(r"state-(\d{8,})\.safetensors")


class Snapshots:
    """The states in a run's folder.

    Args:
        folder: Of the run.
        run: What the states of this run have in common, JSON values.
        keep_last: States that are kept.
        reporter: Told about damage.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], keep_last: int, reporter: Reporter) -> None:
        self._folder, self._run, self._keep_last, self._reporter = folder, run, keep_last, reporter

    def steps(self) -> list[int]:
        """Steps after which there are states, rising."""
        if not self._folder.is_dir():
            return []
        return sorted(int(match[1]) for path in self._folder.iterdir() if (match := PATTERN.fullmatch(path.name)))

    def path_of(self, step: int) -> Path:
        """The file of a state."""
        return self._folder / NAME.format(step=step)

    def save(self, tensors: Mapping[str, Tensor], journal: Mapping[str, Any], scaler: Mapping[str, Any]) -> None:
        """Save a state, and drop the oldest, and those beyond it that the run has turned its back on."""
        step = journal["done"]
        write_state(self.path_of(step), tensors, run=self._run, journal=journal, scaler=scaler)
        kept = [other for other in self.steps() if other <= step][-self._keep_last :]
        for other in set(self.steps()) - set(kept):
            self.path_of(other).unlink(missing_ok=True)

    def newest(self) -> tuple[Path, StateHeader] | None:
        """The newest whole state; those that are damaged are named and passed over. None if there is no file at all.

        Raises:
            CheckpointError: If every state is damaged, or they are another run's.
        """
        steps = self.steps()
        problem: CheckpointError | None = None
        for step in reversed(steps):
            path = self.path_of(step)
            try:
                header = read_header(path)
            except CheckpointError as err:
                problem = err
                self._reporter.note(f"{err.message}; taking the one before")
                continue
            header.require_same_run(self._run, path)
            return path, header
        if problem is not None:
            raise CheckpointError(
                f"no saved state in {self._folder} can be read", hint="use --resume never to start over"
            ) from problem
        return None

    def at(self, path: Path) -> tuple[Path, StateHeader]:
        """One state by its path, or the newest whole one of a folder.

        Raises:
            CheckpointError: If there is none, it is damaged or another run's.
        """
        if path.is_dir():
            found = Snapshots(path, self._run, self._keep_last, self._reporter).newest()
            if found is None:
                raise CheckpointError(f"{path} holds no training state", hint="name a state-*.safetensors")
            return found
        header = read_header(path)
        header.require_same_run(self._run, path)
        return path, header

    def clean(self) -> None:
        """Remove what a killed process left half-written; no other may be at work here."""
        sweep(self._folder, owned=True)

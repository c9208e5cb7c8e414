"""Training checkpoints of a run: safetensors files with all that is needed to resume.

Their tensors are weights, averages and the optimizer's moments; the header key `medcli_training` holds the rest. All
randomness is a function of (seed, step), so there is no generator state to save.
"""

from __future__ import annotations

import json
import re
import shlex
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os.path import dirname, realpath
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medcli.checkpoint.run_state import KEY
from medcli.errors import CheckpointError, ConfigError
from medcli.runtime.files import require_regular
from medcli.runtime.json_records import as_record, parse_json
from medcli.runtime.reporting import Reporter
from medcli.runtime.temporaries import sweep
from medcli.runtime.tensor_files import write_tensors
from medcli.training.config import AUTO
from medcli.training.history import History
from medcli.training.run_identity import DATA, Changes, changed_settings, changes_text, fixed_changes

RESTART_HINT = "start over with --resume never, or from another checkpoint"
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
    checksum: int = field(metadata={"min": 0, "max": 2**32 - 1})
    """CRC-32 of the tensors' bytes in that order."""

    def require_same_run(self, run: Mapping[str, Any], path: Path) -> None:
        """Refuse to resume with other settings.

        Raises:
            ConfigError: Naming the settings that differ, with both values.
        """
        if changes := changed_settings(self.run, run):
            name = shlex.quote(str(path.parent))
            is_fixed = bool(fixed_changes(changes))
            another = "choose another --output" if is_fixed else f"change them with --resume {name} --output NEW"
            raise ConfigError(
                f"{path.parent} was started with {changes_text(changes)}",
                hint=f"use the settings it was started with, {another}, or start over with --resume never",
            )

    def require_same_network(self, run: Mapping[str, Any], path: Path) -> Changes:
        """Refuse to continue another network, set of parameters or optimizer in a new folder; return what else differs.

        Raises:
            ConfigError: Naming the settings that differ, with both values.
        """
        changes = changed_settings(self.run, run)
        if fixed := fixed_changes(changes):
            raise ConfigError(
                f"{path} holds weights and moments of {changes_text(fixed)}",
                hint="start from the run's checkpoint.safetensors instead of --resume",
            )
        return changes


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
    require_regular(path, CheckpointError)
    try:
        with safe_open(path, framework="pt") as file:
            header = as_record(CheckpointHeader, parse_json((file.metadata() or {})[KEY], allow_nan=True))
            History.from_json(header.journal)
            yield header, file.get_tensor
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as err:
        reason = "it is no training checkpoint" if isinstance(err, KeyError) else str(err) or type(err).__name__
        raise CheckpointError(f"{path} can't be read: {reason.splitlines()[0]}") from err


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

    def find(
        self, resume: str, check: Callable[[Mapping[str, tuple[int, ...]]], None]
    ) -> tuple[Path, CheckpointHeader, dict[str, Any] | None] | None:
        """Find the checkpoint a run resumes from; None: there is none yet.

        Args:
            resume: `TrainConfig.resume`, not `never`.
            check: Refuses shapes of tensors, by name, that do not fit the network and the optimizer.

        Returns:
            Its path and header; for one of another folder, the record `History.resumed_from`.

        Raises:
            CheckpointError: If it can't be used.
        """
        if resume == AUTO:
            if (newest := self.newest()) is None:
                return None
            (path, header), changes = newest, Changes()
        else:
            path, header, changes = self.at(Path(resume))
        with open_training_checkpoint(path) as (_, read):
            shapes = {key: tuple(read(key).shape) for key in header.keys}
        try:
            check(shapes)
        except CheckpointError as err:
            raise CheckpointError(f"{path} does not fit this run: {err.message}", hint=RESTART_HINT) from err
        if self.is_own(path):
            return path, header, None
        if changes:
            self._reporter.note(f"{path.parent} was started with {changes_text(changes)}: the new values are used")
        if DATA in changes:
            self._reporter.note("the data differ, so the order of images is a new one")
        changed = {key: list(pair) for key, pair in changes.items()}
        return path, header, {"checkpoint": str(path), "step": header.journal["done"], "changed": changed}

    def newest(self) -> tuple[Path, CheckpointHeader] | None:
        """Return the newest undamaged checkpoint; damaged ones are noted and skipped. None if there is none at all.

        Raises:
            CheckpointError: If all are damaged, or they are another run's.
        """
        if not (steps := self.steps()):
            return None
        path, header = self._first_readable([self.path_of(step) for step in reversed(steps)])
        header.require_same_run(self._run, path)
        return path, header

    def at(self, path: Path) -> tuple[Path, CheckpointHeader, Changes]:
        """Return a checkpoint by its path, or the newest undamaged one of a folder, and the settings that differ.

        In a new folder settings may differ, but for the network, the trained parameters and the optimizer.

        Raises:
            CheckpointError: If there is none, it is damaged or of another network, or of the same folder and another
                run.
        """
        paths = [path]
        if path.is_dir():
            folder = CheckpointFolder(path, self._run, self._keep_last, self._reporter)
            paths = [folder.path_of(step) for step in reversed(folder.steps())]
            if not paths:
                raise CheckpointError(f"{path} holds no training checkpoint", hint="name a state-*.safetensors")
        found, header = self._first_readable(paths)
        if self.is_own(found):
            header.require_same_run(self._run, found)
        return found, header, header.require_same_network(self._run, found)

    def _first_readable(self, paths: Sequence[Path]) -> tuple[Path, CheckpointHeader]:
        problems: list[CheckpointError] = []
        for path in paths:
            try:
                header = read_header(path)
            except CheckpointError as err:
                problems.append(err)
                continue
            for problem in problems:
                self._reporter.note(f"{problem.message}; using the one before it")
            return path, header
        first = problems[0]
        if len(paths) == 1:
            raise CheckpointError(first.message, hint=RESTART_HINT) from first
        message = f"none of {len(paths)} training checkpoints can be read; {first.message}"
        raise CheckpointError(message, hint=RESTART_HINT) from first

    def is_own(self, path: Path) -> bool:
        """Return whether a checkpoint is in this folder."""
        return dirname(realpath(path)) == realpath(self._folder)

    def clean(self) -> None:
        """Remove temporary files of killed processes; no other process may use the folder."""
        sweep(self._folder, owned=True)

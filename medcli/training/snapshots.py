"""The saved states of a run: one file each, the newest few of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medcli.errors import CheckpointError
from medcli.runtime.reporting import Reporter
from medcli.training.state import StateHeader, read_header, write_state

NAME = "state-{step:08d}.safetensors"
PATTERN = re.compile(r"state-(\d{8,})\.safetensors")
ABANDONED = ".state-*.tmp-*.safetensors"
"""What a kill leaves of a state that was being written."""


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
        for path in self._folder.glob(ABANDONED):
            path.unlink(missing_ok=True)

"""History of a run: losses and skipped steps, which are saved with its checkpoints."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from medcli.runtime.json_records import InvalidJson, as_record

KEPT_ROWS = 1024
"""Number of recent steps whose losses are kept."""
MAX_STEP = 2**48
"""Upper limit of step numbers in files."""


@dataclass(frozen=True, slots=True)
class Row:
    """Loss and gradient norm of a step."""

    step: int
    """Step number, from 1, as in `metrics.jsonl`."""
    counts: tuple[int, ...]
    """Mediator counts trained in it, rising; 0 is full attention."""
    loss: float
    grad_norm: float
    """Norm of the gradient before clipping."""
    masked_loss: float | None = None
    """Loss of the masked pass, which `loss` includes; None without one."""

    @property
    def full_loss(self) -> float:
        """Loss of the full pass."""
        return self.loss - (self.masked_loss or 0.0)

    def to_json(self) -> list[Any]:
        """Return the fields in order; the last one only if there is a masked pass."""
        values = [self.step, list(self.counts), self.loss, self.grad_norm]
        return values if self.masked_loss is None else [*values, self.masked_loss]


@dataclass(frozen=True, slots=True)
class BadStep:
    """Step that was undone and whose batch is skipped."""

    step: int
    """Step number, from 1, as in `metrics.jsonl`."""
    what: str
    """Symptom: `the loss was nan`."""
    tensor: str | None = None
    """Origin, once it is known: `the gradient of blocks.0.attn.qkv.weight is the first value that is not finite`."""


@dataclass(slots=True)
class Sums:
    """Sums over the steps of a log line that are no longer kept one by one."""

    since: int = 0
    """Step of the line before."""
    count: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    masked_loss: float = 0.0

    @property
    def full_loss(self) -> float:
        """Sum of the losses of the full pass."""
        return self.loss - self.masked_loss

    def add(self, row: Row) -> None:
        """Add a step."""
        self.count += 1
        self.loss += row.loss
        self.grad_norm += row.grad_norm
        self.masked_loss += row.masked_loss or 0.0


@dataclass(slots=True)
class History:
    """Progress of a run: steps done, recent losses, bad steps."""

    done: int = 0
    """Steps done, skipped ones included."""
    rows: deque[Row] = field(default_factory=lambda: deque(maxlen=KEPT_ROWS))
    """Recent steps that were not skipped, oldest first."""
    bad_steps: tuple[BadStep, ...] = ()
    """Bad steps in the order they were found."""
    unreadable: frozenset[int] = frozenset()
    """Numbers of images that could not be read, and whose place others took."""
    resumed_from: dict[str, Any] | None = None
    """Checkpoint of another folder that the run was started from, its step, and the settings changed then."""
    dropped: Sums = field(default_factory=Sums)
    """Steps of the current log line that `rows` has no room for."""

    def add(self, row: Row, since: int) -> None:
        """Record a step.

        Args:
            since: Step of the log line before it.
        """
        if len(self.rows) == KEPT_ROWS and self.rows[0].step > since:
            if self.dropped.since != since:
                self.dropped = Sums(since)
            self.dropped.add(self.rows[0])
        self.rows.append(row)

    def mean(self, name: str, since: int) -> float | None:
        """Mean of a number of `Row` over the steps after `since`; None without such steps."""
        values = [getattr(row, name) or 0.0 for row in self.rows if row.step > since]
        dropped = self.dropped if self.dropped.since == since else Sums()
        count = len(values) + dropped.count
        return math.fsum([getattr(dropped, name), *values]) / count if count else None

    def losses_of(self, counts: tuple[int, ...]) -> list[float]:
        """Losses of the recent steps that trained these counts."""
        return [row.loss for row in self.rows if row.counts == counts]

    def explain(self, step: int, tensor: str) -> None:
        """Record the origin of a bad step."""
        self.bad_steps = tuple(
            replace(bad_step, tensor=tensor) if bad_step.step == step else bad_step for bad_step in self.bad_steps
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values that `from_json` reads; rare parts only where they are not empty."""
        values: dict[str, Any] = {
            "done": self.done,
            "rows": [row.to_json() for row in self.rows],
            "troubles": [asdict(bad_step) for bad_step in self.bad_steps],
        }
        if self.dropped.count:
            values["dropped"] = asdict(self.dropped)
        if self.unreadable:
            values["unreadable"] = sorted(self.unreadable)
        if self.resumed_from:
            values["resumed_from"] = self.resumed_from
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> History:
        """Read the values of `to_json`.

        Raises:
            InvalidJson: If they are not what that returns.
        """
        record = as_record(_HistoryRecord, values, place="journal.")
        rows = [Row(step, tuple(counts), *rest) for step, counts, *rest in record.rows]
        steps = [row.step for row in rows]
        if steps != sorted(set(steps)) or any(not 0 < step <= record.done for step in steps):
            raise InvalidJson("the steps of journal.rows are not in order")
        return cls(
            done=record.done,
            rows=deque(rows, maxlen=KEPT_ROWS),
            bad_steps=record.troubles,
            unreadable=frozenset(record.unreadable),
            resumed_from=record.resumed_from,
            dropped=record.dropped,
        )


_RowValues = tuple[int, list[int], float, float]
_MaskedRowValues = tuple[int, list[int], float, float, float]


@dataclass(frozen=True, slots=True)
class _HistoryRecord:
    """Types of the values of `History.to_json`."""

    done: int = field(metadata={"min": 0, "max": MAX_STEP})
    rows: list[_RowValues | _MaskedRowValues]
    troubles: tuple[BadStep, ...]
    unreadable: list[int] = field(default_factory=list)
    resumed_from: dict[str, Any] | None = None
    dropped: Sums = field(default_factory=Sums)

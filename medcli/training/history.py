"""History of a run: losses and skipped steps, which are saved with its checkpoints, and the log `metrics.jsonl`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from medcli.runtime.files import write_text

KEPT_ROWS = 1024
"""Number of recent steps whose losses are kept."""


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
class History:
    """Progress of a run: steps done, recent losses, bad steps."""

    done: int = 0
    """Steps done, skipped ones included."""
    rows: deque[Row] = field(default_factory=lambda: deque(maxlen=KEPT_ROWS))
    """Recent steps that were not skipped, oldest first."""
    bad_steps: tuple[BadStep, ...] = ()
    """Bad steps in the order they were found."""

    def losses_of(self, counts: tuple[int, ...]) -> list[float]:
        """Losses of the recent steps that trained these counts."""
        return [row.loss for row in self.rows if row.counts == counts]

    def after(self, step: int) -> list[Row]:
        """Recent steps after this one."""
        return [row for row in self.rows if row.step > step]

    def explain(self, step: int, tensor: str) -> None:
        """Record the origin of a bad step."""
        self.bad_steps = tuple(
            replace(bad_step, tensor=tensor) if bad_step.step == step else bad_step for bad_step in self.bad_steps
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values that `from_json` reads."""
        rows = [row.to_json() for row in self.rows]
        return {"done": self.done, "rows": rows, "troubles": [asdict(bad_step) for bad_step in self.bad_steps]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> History:
        """Read the values of `to_json`."""
        history = cls(done=values["done"], bad_steps=tuple(BadStep(**bad_step) for bad_step in values["troubles"]))
        history.rows.extend(Row(step, tuple(counts), *rest) for step, counts, *rest in values["rows"])
        return history


class MetricsLog:
    """Log file with a line every `log_every` steps, none missing and none twice however often a run resumes.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line; it has a `step`."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut(self, done: int, log_every: int) -> None:
        """Remove lines beyond the steps done, and a line cut by a kill.

        Also removes a last line of fewer than `log_every` steps, written at the end of a shorter run: the next line
        covers its steps again.
        """
        if not self._path.exists():
            return
        kept = []
        for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                step = json.loads(text)["step"]
                if step < done or (step == done and done % log_every == 0):
                    kept.append(text + "\n")
        write_text(self._path, "".join(kept), force=True)

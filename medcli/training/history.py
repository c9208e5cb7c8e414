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
"""Steps whose losses are remembered, to tell what is usual."""


@dataclass(frozen=True, slots=True)
class Row:
    """One step that was trained on."""

    step: int
    """Its number, from 1, as in `metrics.jsonl`."""
    counts: tuple[int, ...]
    """Mediator counts it trained, rising; 0 is full attention."""
    loss: float
    grad_norm: float
    """Norm of the gradient before clipping."""
    masked_loss: float | None = None
    """Of the masked pass, which `loss` includes; None without one."""

    def to_json(self) -> list[Any]:
        """The values in order, as `Row(*values)` takes them; the last one only if there is a masked pass."""
        values = [self.step, list(self.counts), self.loss, self.grad_norm]
        return values if self.masked_loss is None else [*values, self.masked_loss]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A step that was undone, and whose batch is skipped."""

    step: int
    """Its number, from 1, as in `metrics.jsonl`."""
    what: str
    """What was wrong: `the loss was nan`."""
    tensor: str | None = None
    """Where it came from, once that is known: `the gradient of blocks.0.attn.qkv.weight is not finite`."""


@dataclass(slots=True)
class History:
    """A run's memory."""

    done: int = 0
    """Steps that are over, skipped ones included."""
    rows: deque[Row] = field(default_factory=lambda: deque(maxlen=KEPT_ROWS))
    """The last steps that were trained on, oldest first."""
    troubles: tuple[Trouble, ...] = ()
    """In the order they were met."""

    def losses_of(self, counts: tuple[int, ...]) -> list[float]:
        """Losses of the remembered steps that trained these counts."""
        return [row.loss for row in self.rows if row.counts == counts]

    def after(self, step: int) -> list[Row]:
        """Remembered steps that came after this one."""
        return [row for row in self.rows if row.step > step]

    def explain(self, step: int, tensor: str) -> None:
        """Note where the trouble of a step came from."""
        self.troubles = tuple(
            replace(trouble, tensor=tensor) if trouble.step == step else trouble for trouble in self.troubles
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, from which `from_json` makes an equal history."""
        rows = [row.to_json() for row in self.rows]
        return {"done": self.done, "rows": rows, "troubles": [asdict(trouble) for trouble in self.troubles]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> History:
        """Read what `to_json` gave."""
        history = cls(done=values["done"], troubles=tuple(Trouble(**trouble) for trouble in values["troubles"]))
        history.rows.extend(Row(step, tuple(counts), *rest) for step, counts, *rest in values["rows"])
        return history


class MetricsLog:
    """The file, as one run after another leaves it.

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
        """Take back what lies beyond the steps that are done, and a line torn by a kill.

        So goes a last line of fewer than `log_every` steps, written where a shorter run ended: the next one holds its
        steps again.
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

"""What a run has met so far, beside tensors: saved with them, so that a resumed run knows what the first one knew."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

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

"""Learning-rate schedules."""

from __future__ import annotations

EDT_FLOOR = 5e-5
"""Final learning rate of EDT."""
EDT_STEPS = 400_000
"""Number of steps of EDT's decay."""


def linear_decay(start: float, step: int, *, floor: float = EDT_FLOOR, num_steps: int = EDT_STEPS) -> float:
    """Return the learning rate after `step` steps of linear decay from `start` to `floor`. Source: edt-facts 4."""
    return start - (start - floor) * min(step, num_steps) / num_steps

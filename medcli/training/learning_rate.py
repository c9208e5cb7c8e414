"""Learning-rate schedules."""

from __future__ import annotations

import math


def linear_decay(start: float, step: int, *, floor: float, num_steps: int) -> float:
    """Return the learning rate after `step` steps of linear decay from `start` to `floor`. Source: edt-facts 4."""
    return start - (start - floor) * min(step, num_steps) / num_steps


def cosine_decay(start: float, step: int, *, floor: float, num_steps: int) -> float:
    """Return the learning rate after `step` steps along half a cosine from `start` to `floor`."""
    return floor + (start - floor) * 0.5 * (1 + math.cos(math.pi * min(step, num_steps) / num_steps))


def warmup_factor(step: int, num_steps: int) -> float:
    """Return the factor of the learning rate after `step` steps of a linear rise that begins at 1 / num_steps."""
    return min(1.0, (step + 1) / num_steps) if num_steps else 1.0

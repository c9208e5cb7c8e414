"""How the learning rate goes over a run."""

from __future__ import annotations

EDT_FLOOR = 5e-5
"""Where EDT's learning rate ends."""
EDT_STEPS = 400_000
"""Steps it takes to get there."""


def linear_decay(start: float, step: int, *, floor: float = EDT_FLOOR, num_steps: int = EDT_STEPS) -> float:
    """Learning rate after so many steps: falls evenly from `start` to `floor`, then stays. Source: edt-facts 4."""
    return start - (start - floor) * min(step, num_steps) / num_steps

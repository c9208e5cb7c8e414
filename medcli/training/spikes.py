"""What counts as trouble, and when there has been too much of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from medcli.errors import ConfigError, DataError, MedcliError
from medcli.training.history import Row, Trouble

MIN_LOSSES = 32
"""Steps of one kind that must have been seen before another can be a spike."""
HIGH = 0.98
"""Share of the recent losses that lie below what still counts as their range."""
FAR = 3.0
"""Times the distance from median to the end of that range."""
SPAN = 1000
"""Steps within which troubles are counted together."""
NOT_FINITE_DATA = "not finite in the data"
"""How `Trouble.tensor` ends where an image is to blame."""


def trouble_of(row: Row, recent: Sequence[float], spike_factor: float, *, may_overflow: bool = False) -> Trouble | None:
    """Judge a step by its loss and gradient.

    A spike is a loss above `spike_factor` times the median of the recent losses and, at once, further above it than
    three times the distance from there to their 98th percentile. The second limit is for small batches, whose losses
    vary by themselves: of 6000 simulated batches of 8 images with log-normal losses, the first alone would throw out
    53, both throw out 6; of batches of 32, neither any. No paper is followed here.

    Args:
        row: The step.
        recent: Losses of good steps before it that trained the same mediator counts: freshly converted, few mediators
            lose far more than many.
        spike_factor: See above.
        may_overflow: Whether gradients that are not finite are in the nature of the number format, and left out by
            its loss scaling.
    """
    if not math.isfinite(row.loss):
        return Trouble(row.step, f"the loss was {row.loss}")
    if not (math.isfinite(row.grad_norm) or may_overflow):
        return Trouble(row.step, f"the norm of the gradient was {row.grad_norm}")
    if len(recent) < MIN_LOSSES:
        return None
    middle = median(recent)
    high = sorted(recent)[math.ceil(HIGH * len(recent)) - 1]
    if row.loss <= max(spike_factor * middle, middle + FAR * (high - middle)):
        return None
    return Trouble(row.step, f"the loss was {row.loss:.4g}, {row.loss / middle:.1f} times the recent median")


def stop_if_repeated(troubles: Sequence[Trouble], max_rollbacks: int) -> None:
    """End a run that can't be helped by leaving batches out.

    Raises:
        DataError: If images that are not finite are to blame.
        ConfigError: If there were more than `max_rollbacks` troubles within any 1000 steps for other reasons.
    """
    last = troubles[-1].step
    near = sorted((trouble for trouble in troubles if abs(trouble.step - last) < SPAN), key=lambda each: each.step)
    if len(near) <= max_rollbacks:
        return
    steps = ", ".join(str(trouble.step) for trouble in near)
    known = next((trouble.tensor for trouble in near if trouble.tensor), None)
    message = f"trouble again and again, in steps {steps}: {troubles[-1].what}" + (f"; {known}" if known else "")
    problem: type[MedcliError] = DataError if (known or "").endswith(NOT_FINITE_DATA) else ConfigError
    raise problem(message, hint="lower --lr, or look at the data; saved states are from before it")

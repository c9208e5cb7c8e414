"""Loss spikes and values that are not finite: detection, diagnosis, and the limit to how many a run leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from medcli.errors import CheckpointError, ConfigError, DataError, MedcliError
from medcli.training.batches import TrainBatch
from medcli.training.distributed import local, whole
from medcli.training.history import Row, Trouble
from medcli.training.trainer import Trainer

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


def origin_of_trouble(trainer: Trainer, batch: TrainBatch, pick_B: Tensor) -> str:
    """Find the first tensor of a step that is not finite, else the largest gradient; nothing is learned.

    Args:
        trainer: As it was before the step.
        batch: This process's rows.
        pick_B: Their image numbers.

    Returns:
        A few words that name it, the same in every process.

    Raises:
        CheckpointError: If the weights themselves are not finite: no batch is to blame, and skipping helps nothing.
    """
    distributed = trainer.distributed
    weights = distributed.gather([name for name, value in trainer.tensors().items() if not _is_finite(value)])
    if weights:
        raise CheckpointError(
            f"before the step, {weights[0]} already was not finite", hint="start from another checkpoint or state"
        )
    rows = [pick for pick, data_CYX in zip(pick_B.tolist(), batch.data_BCYX, strict=True) if not _is_finite(data_CYX)]
    if images := distributed.gather(rows):
        return f"image {images[0]} is {NOT_FINITE_DATA}"
    loss = distributed.mean(trainer.gradients(batch).means)
    norms = {name: _norm(value.grad) for name, value in trainer.parameters.items() if value.grad is not None}
    trainer.forget_gradients()
    if not _is_finite(loss):
        return "no image is to blame: the loss is the first that is not finite"
    for name, norm in norms.items():
        if not norm.isfinite():
            return f"the gradient of {name} is the first that is not finite"
    largest = max(norms, key=lambda name: float(norms[name]))
    return f"the largest gradient is that of {largest}, with a norm of {float(norms[largest]):.3g}"


def _is_finite(value: Tensor) -> bool:
    return bool(local(value).isfinite().all())


def _norm(value: Tensor) -> Tensor:
    return whole(torch.linalg.vector_norm(value))

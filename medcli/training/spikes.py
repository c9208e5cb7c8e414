"""Loss spikes and values that are not finite: detection, diagnosis, and the limit to how many a run leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NoReturn

import torch
from torch import Tensor

from medcli.errors import CheckpointError, ConfigError, DataError, MedcliError
from medcli.training.batches import TrainBatch
from medcli.training.distributed import local, whole
from medcli.training.history import BadStep, Row
from medcli.training.trainer import Trainer

MIN_LOSSES = 32
"""Minimum number of recorded losses before a step can be a spike."""
HIGH = 0.98
"""Quantile of the recent losses that ends their range."""
FAR = 3.0
"""Factor of the distance from the median to the end of that range."""
SPAN = 1000
"""Window of steps in which bad steps are counted."""
NOT_FINITE_DATA = "not finite in the data"
"""End of `BadStep.tensor` if an image is the cause."""


def judge(row: Row, recent: Sequence[float], spike_factor: float, *, may_overflow: bool = False) -> BadStep | None:
    """Judge a step by its loss and gradient norm; None: it is good.

    A spike is a loss above `spike_factor` times the median of the recent losses and, at once, further above it than
    three times the distance from there to their 98th percentile. The second limit is for small batches, whose losses
    vary by themselves: of 6000 simulated batches of 8 images with log-normal losses, the first alone rejects 53,
    both reject 6; of batches of 32, neither rejects any. The rule is this program's own.

    Args:
        recent: Losses of earlier good steps with the same mediator counts: after a conversion, few mediators have a far
            larger loss than many.
        spike_factor: The first limit above.
        may_overflow: The data type lets gradients overflow, and its loss scaling skips such steps.
    """
    if not math.isfinite(row.loss):
        return BadStep(row.step, f"the loss was {row.loss}")
    if not (math.isfinite(row.grad_norm) or may_overflow):
        return BadStep(row.step, f"the norm of the gradient was {row.grad_norm}")
    if len(recent) < MIN_LOSSES:
        return None
    middle = median(recent)
    high = sorted(recent)[math.ceil(HIGH * len(recent)) - 1]
    if row.loss <= max(spike_factor * middle, middle + FAR * (high - middle)):
        return None
    return BadStep(row.step, f"the loss was {row.loss:.4g}, {row.loss / middle:.1f} times the recent median")


def stop_if_repeated(bad_steps: Sequence[BadStep], max_rollbacks: int) -> None:
    """Stop a run in which too many steps are bad.

    Raises:
        DataError: If images that are not finite are the cause.
        ConfigError: If there were more than `max_rollbacks` bad steps within any 1000 steps for other reasons.
    """
    last = bad_steps[-1].step
    near = sorted((bad_step for bad_step in bad_steps if abs(bad_step.step - last) < SPAN), key=lambda each: each.step)
    if len(near) <= max_rollbacks:
        return
    steps = ", ".join(str(bad_step.step) for bad_step in near)
    known = next((bad_step.tensor for bad_step in near if bad_step.tensor), None)
    message = f"{len(near)} bad steps ({steps}): {bad_steps[-1].what}" + (f"; {known}" if known else "")
    problem: type[MedcliError] = DataError if (known or "").endswith(NOT_FINITE_DATA) else ConfigError
    raise problem(message, hint="lower --lr, or check the data; the checkpoints are from before the bad steps")


def stop_untrained(bad_steps: Sequence[BadStep], num_steps: int) -> NoReturn:
    """Stop a run in which every step was skipped: its weights are still the initial ones.

    Raises:
        DataError: If images that are not finite are the cause.
        ConfigError: For other reasons.
    """
    last = bad_steps[-1] if bad_steps else None
    why = f": {last.what}" + (f"; {last.tensor}" if last.tensor else "") if last else ""
    problem: type[MedcliError] = DataError if last and (last.tensor or "").endswith(NOT_FINITE_DATA) else ConfigError
    raise problem(
        f"all {num_steps} steps were skipped, nothing was trained{why}",
        hint="check the data and the starting weights, or lower --lr" if last else "skip fewer steps",
    )


def find_origin(trainer: Trainer, batch: TrainBatch, pick_B: Tensor) -> str:
    """Find the first tensor of a bad step that is not finite, else the largest gradient; no weight changes.

    Args:
        trainer: As it was before the step.
        batch: This process's rows.
        pick_B: Their image numbers.

    Returns:
        A description for messages, the same in every process.

    Raises:
        CheckpointError: If the weights themselves are not finite, so that skipping the batch can't help.
    """
    distributed = trainer.distributed
    weights = distributed.gather([name for name, value in trainer.tensors().items() if not _is_finite(value)])
    if weights:
        raise CheckpointError(f"{weights[0]} was not finite before the step", hint="start from another checkpoint")
    rows = [pick for pick, data_CYX in zip(pick_B.tolist(), batch.data_BCYX, strict=True) if not _is_finite(data_CYX)]
    if images := distributed.gather(rows):
        return f"image {images[0]} is {NOT_FINITE_DATA}"
    loss = distributed.mean(trainer.gradients(batch).means)
    norms = {name: _norm(value.grad) for name, value in trainer.parameters.items() if value.grad is not None}
    trainer.zero_gradients()
    if not _is_finite(loss):
        return "all images are finite, the loss is the first value that is not"
    for name, norm in norms.items():
        if not norm.isfinite():
            return f"the gradient of {name} is the first value that is not finite"
    largest = max(norms, key=lambda name: float(norms[name]))
    size = float(norms[largest]) / trainer.scaler.get_scale()
    return f"the largest gradient is that of {largest}, of norm {size:.3g}"


def _is_finite(value: Tensor) -> bool:
    return bool(local(value).isfinite().all())


def _norm(value: Tensor) -> Tensor:
    return whole(torch.linalg.vector_norm(value))

"""Where trouble in a step comes from: looked into when the step is skipped, so that good steps pay nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from medcli.errors import CheckpointError
from medcli.training.batches import TrainBatch
from medcli.training.dtensor import local, whole
from medcli.training.spikes import NOT_FINITE_DATA
from medcli.training.trainer import Trainer


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

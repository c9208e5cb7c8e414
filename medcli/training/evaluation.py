"""Evaluation loss of a model on fixed draws, so that models are compared on equal images, noise and times."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from medcli.data.training_set import TrainingSet
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.noise import Stream, normal, uniform, words
from medcli.training.objective import PLAIN_LOSS, LadderObjective, LossConfig, native_time

# Dimension key: B rows of a batch, R rows in all.

FIRST_POSITION = 2**47
"""First position of an evaluation's draws in the sequence of a run's draws, beyond any run."""


def evaluate(
    model: DiffusionTransformer,
    data: TrainingSet,
    counts: tuple[int, ...],
    *,
    seed: int,
    loss: LossConfig = PLAIN_LOSS,
    num_images: int = 512,
    batch_size: int = 64,
) -> dict[int, float]:
    """Mean training loss of each mediator count, all on the same images, noise and times.

    Draws depend only on the seed and `num_images`, so losses of several models are paired and their difference has
    little noise. The control of a fine-tuning run is the parent with full attention, trained for as many steps on the
    same batches (the same seed; `counts=(0,)`) and evaluated at count 0: a gain it shows too is not due to the
    mediators.

    Args:
        model: The network, on any device; its counts must include `counts`.
        data: Data set; images are taken from it at even distances.
        counts: Mediator counts, 0 for full attention.
        seed: Random seed of noise and times.
        loss: Settings of the loss; distillation is left out, so that runs with and without a teacher compare.
        num_images: Number of draws. Times are stratified over their interval.
        batch_size: Rows of a forward pass.

    Returns:
        The mean loss by count, in the order of `counts`. Labels are never dropped.

    Raises:
        DataError: If an image can't be read.
    """
    objective = LadderObjective(model, replace(loss, distill=0.0))
    device = model.pos_embed.device
    time_R = _even_times(seed, num_images)
    sums = dict.fromkeys(counts, 0.0)
    for first in range(0, num_images, batch_size):
        row_B = torch.arange(first, min(first + batch_size, num_images))
        position_B = FIRST_POSITION + row_B
        data_BCYX, label_B = data.read(row_B * data.num_images // num_images, position_B, seed)
        shape = tuple(data_BCYX.shape[1:])
        noise_BCYX = normal(seed, position_B, torch.zeros_like(row_B), shape, Stream.TRAIN_NOISE)
        t_B = native_time(model.config.family, time_R[row_B], loss)
        clean, noise, t, label = (part.to(device) for part in (data_BCYX, noise_BCYX, t_B, label_B))
        with torch.no_grad():
            for count in counts:
                sums[count] += float(objective.losses_at(count, clean, noise, t, label).double().sum())
    return {count: total / num_images for count, total in sums.items()}


def _even_times(seed: int, num_rows: int) -> Tensor:
    """(R,) float64 stratified numbers in (0, 1), in an order independent of the images'."""
    position_R = FIRST_POSITION + torch.arange(num_rows)
    zero_R = torch.zeros_like(position_R)
    place_R = words(seed, position_R, zero_R, 1, Stream.DATA_ORDER)[:, 0].argsort(stable=True)
    return (place_R + uniform(seed, position_R, zero_R, 1, Stream.TRAIN_TIME)[:, 0]) / num_rows

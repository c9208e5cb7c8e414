"""The training loss of a ladder: every mediator count learns from its own share of the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcli.config import Family
from medcli.diffusion.gaussian import NUM_TRAIN_TIMESTEPS, gaussian_tables, respace
from medcli.diffusion.intervals import training_interval
from medcli.diffusion.losses import dit_loss, sit_loss
from medcli.diffusion.steps import Predict
from medcli.model.backbone import DiffusionTransformer

# Dimension key: B batch, C channels, Y X latent height and width.


def shares(batch_size: int, entries: tuple[int, ...]) -> list[tuple[int, slice]]:
    """Cut a batch into one run of rows per ladder entry, as equal as they go, in the order of `entries`."""
    edges = [batch_size * position // len(entries) for position in range(len(entries) + 1)]
    return [(entry, slice(*edges[position : position + 2])) for position, entry in enumerate(entries)]


def native_time(family: Family, uniform_B: Tensor) -> Tensor:
    """Turn uniform numbers in (0, 1) into training times of a family.

    Returns:
        SiT: float32 on its training interval. DiT: int64 in 0..999.
    """
    if family == "dit":
        return (uniform_B * NUM_TRAIN_TIMESTEPS).long()
    start, end = training_interval("linear", "velocity")
    return (start + (end - start) * uniform_B).float()


class LadderObjective(nn.Module):
    """The family's loss, averaged over the batch: velocity matching for SiT, noise and variational bound for DiT.

    Being one module with one `forward`, it is what distributed wrappers see, whatever number of counts a step trains.

    Args:
        model: The network.
        entries: Mediator counts to train, 0 for full attention; each gets an equal share of every batch.
    """

    def __init__(self, model: DiffusionTransformer, entries: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        self.entries = entries
        self.tables = gaussian_tables(respace("")) if model.config.family == "dit" else None

    def forward(self, data_BCYX: Tensor, noise_BCYX: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
        """Mean loss of the batch, a scalar.

        Args:
            data_BCYX: (B, C, Y, X) clean latents.
            noise_BCYX: (B, C, Y, X) standard normal noise.
            t_B: (B,) training times, see `native_time`.
            label_B: (B,) labels, the null class where a label was dropped.

        Source: reference-facts 5.7 and 6.
        """
        losses = [
            self.share_loss(entry, data_BCYX[rows], noise_BCYX[rows], t_B[rows], label_B[rows])
            for entry, rows in shares(len(data_BCYX), self.entries)
        ]
        return torch.cat(losses).mean()

    def share_loss(self, entry: int, data_BCYX: Tensor, noise_BCYX: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
        """(B,) losses of images that all go through one ladder entry."""
        predict: Predict = lambda x_BCYX, time_B: self.model(x_BCYX, time_B, label_B, entry)  # noqa: E731
        if self.tables is None:
            return sit_loss(predict, data_BCYX, noise_BCYX, t_B)
        return dit_loss(predict, data_BCYX, noise_BCYX, t_B, tables=self.tables).total

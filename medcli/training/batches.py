"""Batches of a run as a function of (seed, step), independent of resumes and of the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.data.training_set import ReadsAhead, TrainingSet
from medcli.errors import ConfigError
from medcli.model.block import NO_MASKS, TokenMasks, rows_of_masks
from medcli.runtime.noise import Stream, integers, normal, uniform, words
from medcli.settings.training import LadderRule
from medcli.training.config import TrainConfig
from medcli.training.masking import draw_masks
from medcli.training.objective import native_time

# Dimension key: B rows of a batch, N images of the set, C channels, Y X height and width.

CPU = torch.device("cpu")
FULL_PASS, MASKED_PASS = 0, 1
"""Numbers of a step's passes; each draws its own noise and label dropout."""
KEPT_EPOCHS = 2
"""Cached epoch orders: a batch may span two epochs."""
MAX_STEPS_AHEAD, MAX_ROWS_AHEAD = 8, 4096
"""Batches that are read from the disk before they are drawn, and their rows: 128 MiB of latents of 256 px."""
CYCLE = 3
"""Period of `sandwich`: the largest count, the smallest and another."""


class TrainBatch(NamedTuple):
    """Inputs of one pass; the first six fields are the arguments of `LadderObjective.forward`."""

    data_BCYX: Tensor
    noise_BCYX: Tensor
    t_B: Tensor
    label_B: Tensor
    counts: tuple[int, ...]
    """Mediator count of each row, 0 for full attention."""
    masks: TokenMasks = NO_MASKS
    """Masks of dropped tokens, by site."""
    masked: TrainBatch | None = None
    """The step's masked pass: the same images and times with its own noise, label dropout and masks."""
    weight_B: Tensor | None = None
    """Importance weights of the rows' losses if times are not drawn evenly; None: all are 1."""

    def __len__(self) -> int:
        return len(self.counts)

    def micro_batches(self, size: int | None) -> Iterator[TrainBatch]:
        """Split the pass into micro-batches of `size` rows, the last one perhaps smaller; None: one."""
        for start in range(0, len(self), size or len(self)):
            rows = slice(start, start + (size or len(self)))
            yield TrainBatch(
                self.data_BCYX[rows],
                self.noise_BCYX[rows],
                self.t_B[rows],
                self.label_B[rows],
                self.counts[rows],
                rows_of_masks(self.masks, rows),
                weight_B=None if self.weight_B is None else self.weight_B[rows],
            )

    def with_timesteps(self, t_B: Tensor, weight_B: Tensor) -> TrainBatch:
        """Return the batch, masked pass included, at other times with weights of the losses."""
        masked = None if self.masked is None else self.masked.with_timesteps(t_B, weight_B)
        # Not `_replace`, which takes the length for the number of parts.
        return TrainBatch(
            self.data_BCYX,
            self.noise_BCYX,
            t_B,
            self.label_B,
            self.counts,
            self.masks,
            masked=masked,
            weight_B=weight_B,
        )


class DataOrder:
    """Data order of a run: each epoch visits every image once, in its own permutation.

    Args:
        num_images: Number of images in the data set.
    """

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images, self.seed = num_images, seed
        self._orders: dict[int, Tensor] = {}

    def picks(self, position_B: Tensor) -> Tensor:
        """(B,) int64 image numbers at (B,) positions in the run's sequence of draws."""
        epoch_B, place_B = position_B.div(self.num_images, rounding_mode="floor"), position_B % self.num_images
        pick_B = torch.empty_like(position_B)
        for epoch in epoch_B.unique().tolist():
            inside_B = epoch_B == epoch
            pick_B[inside_B] = self._order_of(epoch)[place_B[inside_B]]
        return pick_B

    def _order_of(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            for old in sorted(self._orders)[: 1 - KEPT_EPOCHS]:
                del self._orders[old]
            epoch_N = torch.full((self.num_images,), epoch)
            keys = words(self.seed, torch.arange(self.num_images), epoch_N, 1, Stream.DATA_ORDER)
            self._orders[epoch] = keys[:, 0].argsort(stable=True)
        return self._orders[epoch]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """Batches of a run, or one process's rows of each."""

    data: TrainingSet
    config: TrainConfig
    model: ModelConfig
    """Model configuration: its family (unit of time) and null class."""
    order: DataOrder
    rows: range
    """Rows of the global batch drawn in this process."""
    device: torch.device = CPU

    @classmethod
    def of(
        cls,
        data: TrainingSet,
        config: TrainConfig,
        model: ModelConfig,
        *,
        rows: range | None = None,
        device: torch.device = CPU,
    ) -> Batches:
        """Create the batches of a run.

        Args:
            config: Seed, batch size, counts, label dropout and loss.
            rows: Rows of the global batch that this process trains on; None: all.
            device: Where the network is. The integers of noise are exact on all devices; their transform to normals
                may differ in its last bit.
        """
        return cls(
            data=data,
            config=config,
            model=model,
            order=DataOrder(data.num_images, config.seed),
            rows=range(config.global_batch_size) if rows is None else rows,
            device=device,
        )

    def positions(self, step: int) -> Tensor:
        """(B,) int64 positions of a step's rows in the run's sequence of draws."""
        first = step * self.config.global_batch_size
        return torch.arange(first + self.rows.start, first + self.rows.stop)

    def counts(self, step: int) -> tuple[int, ...]:
        """Return the mediator count of each row of the global batch."""
        config = self.config
        return counts_of_step(config.ladder_rule, config.counts, config.seed, step, config.global_batch_size)

    def time_uniforms(self, step: int) -> Tensor:
        """(B,) float64 uniform numbers in (0, 1), on the CPU, that a step's times are drawn from."""
        position_B = self.positions(step)
        return uniform(self.config.seed, position_B, torch.zeros_like(position_B), 1, Stream.TRAIN_TIME)[:, 0]

    def draw(self, step: int) -> TrainBatch:
        """Return the rows of a step, counted from 0, on the device, at evenly drawn times.

        Raises:
            DataError: If an image can't be read.
        """
        config, seed = self.config, self.config.seed
        position_B = self.positions(step)
        self._expect(step + self._steps_ahead)
        data_BCYX, label_B = self.data.read(self.order.picks(position_B), position_B, seed)
        t_B = self._to_device(native_time(self.model.family, self.time_uniforms(step), config.loss))
        images_BCYX = self._to_device(data_BCYX)
        counts = self.counts(step)[self.rows.start : self.rows.stop]

        def drawn(number: int, masks: TokenMasks = NO_MASKS, masked: TrainBatch | None = None) -> TrainBatch:
            noise_BCYX, kept_B = self._noise(position_B, images_BCYX, number), self._labels(position_B, label_B, number)
            return TrainBatch(images_BCYX, noise_BCYX, t_B, self._to_device(kept_B), counts, masks, masked)

        if config.masking is None:
            return drawn(FULL_PASS)
        masks = draw_masks(self.model, config.masking, seed, step, position_B)
        device_masks = {site: self._to_device(mask) for site, mask in masks.items()}
        return drawn(FULL_PASS, masked=drawn(MASKED_PASS, device_masks))

    @property
    def _steps_ahead(self) -> int:
        """Batches read ahead: of a small set less than an epoch, for only two epochs' orders are kept."""
        size = self.config.global_batch_size
        return min(MAX_STEPS_AHEAD, MAX_ROWS_AHEAD // len(self.rows), self.data.num_images // size)

    def _expect(self, step: int) -> None:
        """Begin to read the images of a later step, if the set is on a disk and the run has that step."""
        if isinstance(self.data, ReadsAhead) and step < self.config.steps and self._steps_ahead:
            position_B = self.positions(step)
            self.data.expect(self.order.picks(position_B), position_B, self.config.seed)

    def _noise(self, position_B: Tensor, images_BCYX: Tensor, number: int) -> Tensor:
        """Draw the noise of a pass, on the device."""
        place_B, number_B = self._to_device(position_B), self._to_device(torch.full_like(position_B, number))
        return normal(self.config.seed, place_B, number_B, tuple(images_BCYX.shape[1:]), Stream.TRAIN_NOISE)

    def _labels(self, position_B: Tensor, label_B: Tensor, number: int) -> Tensor:
        """Replace some labels by the null class (label dropout)."""
        number_B = torch.full_like(position_B, number)
        draw_B = uniform(self.config.seed, position_B, number_B, 1, Stream.TRAIN_LABEL_DROP)[:, 0]
        return torch.where(draw_B < self.config.label_dropout, self.model.null_class, label_B)

    def _to_device(self, value: Tensor) -> Tensor:
        return to_device(value, self.device)


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """Copy to a device, to a GPU asynchronously from pinned memory."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def counts_of_step(rule: str, counts: tuple[int, ...], seed: int, step: int, batch_size: int) -> tuple[int, ...]:
    """Choose the mediator count of each row of a step's batch.

    The batch is the global one, so that the number of processes changes nothing.

    Args:
        rule: `sandwich`: all rows share one count; steps take turns with the largest (full attention counts as the
            largest), the smallest and one drawn at random from the others. The outer counts bound those between
            (the sandwich rule of slimmable networks, arXiv 1903.05134), and one pass over the whole batch is faster
            than one over each part of it. `split`: each count gets an equal run of rows of every step.
        counts: Counts to train, 0 for full attention; `split` hands out rows in this order.
        step: Number of the step, from 0.
        batch_size: Rows of the global batch; `split` needs one per count.

    Returns:
        A count for each row, rows of equal count next to each other.

    Raises:
        ConfigError: If there is no such rule.
    """
    if rule == "split":
        return tuple(
            count for count, size in zip(counts, _shares(batch_size, len(counts)), strict=True) for _ in range(size)
        )
    if rule != "sandwich":
        raise ConfigError(
            f"unknown ladder rule {rule!r}, expected one of {', '.join(get_args(LadderRule))}",
            hint="sandwich trains one count a step, split all of them",
        )
    rising = sorted(counts, key=_count_order)
    turn = (rising[-1], rising[0], _drawn(rising[1:-1] or rising, seed, step))
    return (turn[step % CYCLE],) * batch_size


def _count_order(count: int) -> float:
    return count or float("inf")


def _shares(batch_size: int, num_counts: int) -> list[int]:
    """Split a batch into row counts that differ by at most one."""
    edges = [batch_size * position // num_counts for position in range(num_counts + 1)]
    return [end - start for start, end in zip(edges, edges[1:], strict=False)]


def _drawn(counts: list[int], seed: int, step: int) -> int:
    pick_1 = integers(seed, torch.tensor([step]), torch.tensor([0]), len(counts), Stream.TRAIN_COUNT)
    return counts[int(pick_1)]

"""The training loss of a ladder: rows of one mediator count go through the network together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import get_args

import torch
from torch import Tensor, nn

from medcli.config import Family
from medcli.diffusion.gaussian import NUM_TRAIN_TIMESTEPS, gaussian_tables, respace
from medcli.diffusion.intervals import training_interval
from medcli.diffusion.losses import Teacher, Weighting, dit_loss, sit_loss
from medcli.diffusion.steps import Predict
from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer
from medcli.model.block import NO_MASKS, TokenMasks, rows_of_masks
from medcli.sampler_config import PathName, PredictionName

# Dimension key: B batch, C channels, Y X latent height and width.


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """What is minimised. Defaults are the references'.

    Raises:
        ConfigError: If a value is unknown or out of range.
    """

    path: PathName = "linear"
    """Interpolant x_t = alpha(t) data + sigma(t) noise. SiT only."""
    prediction: PredictionName = "velocity"
    """What a SiT network predicts."""
    weighting: Weighting = "none"
    """Weight of SiT's noise and score losses over time; velocity has none."""
    distill: float = 0.0
    """Share of the squared error that is towards a teacher's output instead of the data's, in [0, 1]."""
    min_snr: float | None = None
    """Noise levels with a signal-to-noise ratio above this count less (`dit_loss`); None: all alike. Not for SiT."""

    def __post_init__(self) -> None:
        choices = {"path": get_args(PathName), "prediction": get_args(PredictionName), "weighting": get_args(Weighting)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"--{name} {getattr(self, name)!r}: expected one of {', '.join(allowed)}")
        if not 0 <= self.distill <= 1:
            raise ConfigError(f"the weight of distillation must be in [0, 1], got {self.distill}", hint="try 0.5")
        if self.min_snr is not None and not self.min_snr > 0:
            raise ConfigError(f"the limit of Min-SNR must be positive, got {self.min_snr}", hint="EDT's is 5")

    def check_family(self, family: Family) -> None:
        """Refuse SiT's choices for a model that has none, and the others' for SiT.

        Raises:
            ConfigError: If the family is not SiT and path, prediction or weighting is not the default, or if it is and
                there is a limit of Min-SNR.
        """
        if family == "sit" and self.min_snr is not None:
            raise ConfigError("Min-SNR is for models that learn the noise, not for SiT", hint="leave --min-snr out")
        plain = LossConfig(distill=self.distill, min_snr=self.min_snr)
        if family != "sit" and self != plain:
            raise ConfigError(
                f"path, prediction and weighting are SiT's; {family} models learn the noise of their own process",
                hint="leave these options out",
            )


PLAIN_LOSS = LossConfig()


def native_time(family: Family, uniform_B: Tensor, loss: LossConfig = PLAIN_LOSS) -> Tensor:
    """Turn uniform numbers in (0, 1) into training times of a family.

    Returns:
        SiT: float32 on its training interval. Others: int64 in 0..999.
    """
    if family != "sit":
        return (uniform_B * NUM_TRAIN_TIMESTEPS).long()
    start, end = training_interval(loss.path, loss.prediction)
    return (start + (end - start) * uniform_B).float()


def runs(counts: tuple[int, ...]) -> Iterator[tuple[int, slice]]:
    """Neighbouring rows of equal count, as (count, rows)."""
    start = 0
    for count, group in groupby(counts):
        end = start + len(list(group))
        yield count, slice(start, end)
        start = end


class LadderObjective(nn.Module):
    """The family's loss of each row: `sit_loss`, or `dit_loss` with its variational bound.

    Being one module with one `forward`, it is what distributed wrappers see, whatever number of counts a step trains.

    With a teacher, a share w = `loss.distill` of each squared error is taken towards the teacher's output on the same
    noisy latents, times and labels, and 1 - w towards the data's target: see `sit_loss` and `dit_loss`. The teacher
    always answers with full attention, and gets no gradient.

    Args:
        model: The network.
        loss: What is minimised.
        teacher: The dense parent, or another network of the same family and latents; frozen here.

    Raises:
        ConfigError: If the loss does not fit the family, or there is a teacher without weight or a weight without one.
    """

    def __init__(
        self, model: DiffusionTransformer, loss: LossConfig = PLAIN_LOSS, teacher: DiffusionTransformer | None = None
    ) -> None:
        super().__init__()
        loss.check_family(model.config.family)
        if (teacher is None) != (loss.distill == 0):
            raise ConfigError(
                f"distillation of weight {loss.distill} {'without' if teacher is None else 'with'} a teacher",
                hint="give a teacher and a weight above 0, or neither",
            )
        self.model = model
        self.loss = loss
        self.teacher = None if teacher is None else teacher.requires_grad_(False)
        self.tables = gaussian_tables(respace("")) if model.config.is_gaussian else None

    def forward(
        self,
        data_BCYX: Tensor,
        noise_BCYX: Tensor,
        t_B: Tensor,
        label_B: Tensor,
        counts: tuple[int, ...],
        masks: TokenMasks = NO_MASKS,
    ) -> Tensor:
        """(B,) losses of the batch.

        Args:
            data_BCYX: (B, C, Y, X) clean latents.
            noise_BCYX: (B, C, Y, X) standard normal noise.
            t_B: (B,) training times, see `native_time`.
            label_B: (B,) labels, the null class where a label was dropped.
            counts: Mediator count of each row, 0 for full attention. Each run of neighbouring rows with one count goes
                through the network once.
            masks: Tokens that a masked pass leaves out, see `medcli.model.block`.

        Raises:
            ValueError: If there is not one count a row.

        Source: reference-facts 5.7 and 6.
        """
        if len(counts) != len(data_BCYX):
            raise ValueError(f"{len(counts)} counts for {len(data_BCYX)} rows")
        losses = [
            self.losses_at(
                count, data_BCYX[rows], noise_BCYX[rows], t_B[rows], label_B[rows], rows_of_masks(masks, rows)
            )
            for count, rows in runs(counts)
        ]
        return torch.cat(losses)

    def losses_at(
        self,
        count: int,
        data_BCYX: Tensor,
        noise_BCYX: Tensor,
        t_B: Tensor,
        label_B: Tensor,
        masks: TokenMasks = NO_MASKS,
    ) -> Tensor:
        """(B,) losses of images that all go through one mediator count."""
        options = {"masks": masks} if masks else {}
        predict: Predict = lambda x_BCYX, time_B: self.model(x_BCYX, time_B, label_B, count, **options)  # noqa: E731
        loss = self.loss
        teacher = None if self.teacher is None else Teacher(self._taught(self.teacher, label_B), loss.distill)
        if self.tables is not None:
            self.tables = self.tables.to(data_BCYX.device)
            return dit_loss(
                predict,
                data_BCYX,
                noise_BCYX,
                t_B,
                tables=self.tables,
                teacher=teacher,
                min_snr=loss.min_snr,
            ).total
        return sit_loss(
            predict,
            data_BCYX,
            noise_BCYX,
            t_B,
            path=loss.path,
            prediction=loss.prediction,
            weighting=loss.weighting,
            teacher=teacher,
        )

    @staticmethod
    def _taught(teacher: DiffusionTransformer, label_B: Tensor) -> Predict:
        def predict(x_BCYX: Tensor, t_B: Tensor) -> Tensor:
            with torch.no_grad():
                answer_BCYX: Tensor = teacher(x_BCYX, t_B, label_B, 0)
            return answer_BCYX

        return predict

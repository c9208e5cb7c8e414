"""Training loss of a mediator ladder: rows with the same mediator count share a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

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
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.sampler import PathName, PredictionName
from medcli.settings.values import check_as

# Dimension key: B batch, C channels, Y X latent height and width.


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Settings of the loss; defaults are the references'.

    Raises:
        ConfigError: If a value is unknown or out of range.
    """

    path: PathName = "linear"
    """Interpolant x_t = alpha(t) data + sigma(t) noise. SiT only."""
    prediction: PredictionName = "velocity"
    """Prediction target of a SiT network."""
    weighting: Weighting = "none"
    """Weight of SiT's noise and score losses over time; velocity has none."""
    distill: float = 0.0
    """Weight of the squared error against a teacher's output instead of the data, in [0, 1]."""
    min_snr: float | None = None
    """Min-SNR limit: noise levels with a larger signal-to-noise ratio get less weight (`dit_loss`). Not for SiT."""

    def __post_init__(self) -> None:
        check_as(FinetuneRequest, path=self.path, prediction=self.prediction, loss_weight=self.weighting)
        check_as(FinetuneRequest, distill_weight=self.distill or None, min_snr=self.min_snr)
        if self.min_snr == 0:
            raise ConfigError("--min-snr 0 weights all steps alike: use None", hint="EDT's is 5")

    def check_family(self, family: Family) -> None:
        """Refuse SiT's settings for other families, and theirs for SiT.

        Raises:
            ConfigError: If the family is not SiT and path, prediction or weighting is not the default, or if it is and
                there is a limit of Min-SNR.
        """
        if family == "sit" and self.min_snr is not None:
            raise ConfigError("--min-snr is for noise-prediction models, not for SiT", hint="leave --min-snr out")
        plain = LossConfig(distill=self.distill, min_snr=self.min_snr)
        if family != "sit" and self != plain:
            raise ConfigError(
                f"--path, --prediction and --loss-weight are for SiT; {family} models predict noise",
                hint="leave these options out",
            )


PLAIN_LOSS = LossConfig()


def native_time(family: Family, uniform_B: Tensor, loss: LossConfig = PLAIN_LOSS) -> Tensor:
    """Map uniform numbers in (0, 1) to training times of a family.

    Returns:
        SiT: float32 on its training interval. Others: int64 in 0..999.
    """
    if family != "sit":
        return (uniform_B * NUM_TRAIN_TIMESTEPS).long()
    start, end = training_interval(loss.path, loss.prediction)
    return (start + (end - start) * uniform_B).float()


def runs(counts: tuple[int, ...]) -> Iterator[tuple[int, slice]]:
    """Yield runs of neighbouring rows with the same count, as (count, rows)."""
    start = 0
    for count, group in groupby(counts):
        end = start + len(list(group))
        yield count, slice(start, end)
        start = end


class LadderObjective(nn.Module):
    """Loss of each row by the model's family: `sit_loss`, or `dit_loss` with its variational bound.

    One module with one `forward`, so that distributed wrappers work for any number of mediator counts.

    With a teacher, each squared error is w = `loss.distill` times that against the teacher's output for the same noisy
    latents, times and labels, plus 1 - w times that against the data's target: see `sit_loss` and `dit_loss`. The
    teacher always uses full attention and gets no gradient.

    Args:
        loss: Settings of the loss.
        teacher: The dense parent, or another network of the same family and latents; it is frozen here.

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
                f"distillation weight {loss.distill} {'without' if teacher is None else 'with'} a teacher",
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
            counts: Mediator count of each row, 0 for full attention. A run of neighbouring rows with one count is one
                forward pass.
            masks: Tokens dropped in a masked pass, see `medcli.model.block`.

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
        """(B,) losses at one mediator count."""
        options = {"masks": masks} if masks else {}
        predict: Predict = lambda x_BCYX, time_B: self.model(x_BCYX, time_B, label_B, count, **options)  # noqa: E731
        loss = self.loss
        teacher = None if self.teacher is None else Teacher(self._predict_with(self.teacher, label_B), loss.distill)
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
    def _predict_with(teacher: DiffusionTransformer, label_B: Tensor) -> Predict:
        def predict(x_BCYX: Tensor, t_B: Tensor) -> Tensor:
            with torch.no_grad():
                output_BCYX: Tensor = teacher(x_BCYX, t_B, label_B, 0)
            return output_BCYX

        return predict

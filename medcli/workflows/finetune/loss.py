"""Loss configuration and distillation teacher of a fine-tuning run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from medcli.config import ModelConfig
from medcli.diffusion.losses import Weighting
from medcli.errors import CheckpointError, ConfigError
from medcli.network import Network, open_network
from medcli.runtime.reporting import Reporter
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.network import NetworkSource
from medcli.settings.sampler import PathName, PredictionName
from medcli.training.config import TrainConfig
from medcli.training.objective import PLAIN_LOSS, LossConfig
from medcli.workflows.sample.defaults import require_known_training, sampling_defaults

DEFAULT_DISTILL = 0.5
"""Share of the squared error that is towards a teacher."""
FAMILY_MIN_SNR = {"edt": 5.0, "mdtv2": 5.0}
"""Limits of Min-SNR that families are trained with. Source: edt-facts 4 and 5."""
STATISTICS = ("latent_mean", "latent_std")
SAME_TEACHER = ("family", "in_channels", "latent_size", "num_classes", "latent_scale", "latent_shift", *STATISTICS)
"""Settings that must be equal for teacher and student."""


def loss_of(request: FinetuneRequest, start: Network) -> LossConfig:
    """Resolve the loss: flags first, then the path and prediction that the checkpoint names for sampling.

    Raises:
        ConfigError: If the values contradict each other or the family.
    """
    require_known_training(start, request)
    path, prediction = _output_kind(start.config, sampling_defaults(start))
    loss = LossConfig(
        path=cast(PathName, request.path or path),
        prediction=cast(PredictionName, request.prediction or prediction),
        weighting=request.weighting or _trained_weighting(start, request.prediction or prediction),
        distill=_distill_weight(request),
        min_snr=(FAMILY_MIN_SNR.get(start.config.family) if request.min_snr is None else request.min_snr) or None,
    )
    loss.check_family(start.config.family)
    if loss.weighting != "none" and loss.prediction == "velocity":
        raise ConfigError(
            f"--loss-weight {loss.weighting} does nothing with --prediction velocity",
            hint="leave --loss-weight out; it is for noise and score",
        )
    return loss


def _trained_weighting(start: Network, prediction: str) -> Weighting:
    """Return the weighting that the checkpoint's training settings name, if it applies to the prediction.

    Raises:
        CheckpointError: If they name one that medcli does not know.
    """
    args = start.info.training.get("args") if start.info else None
    named = args.get("loss_weight") if isinstance(args, Mapping) else None
    if named in (None, "", "none", "None") or start.config.family != "sit" or prediction == "velocity":
        return "none"
    if named not in get_args(Weighting):
        raise CheckpointError(
            f"{start.name} was trained with loss weight {str(named)[:60]!r}, which medcli does not know",
            hint=f"choose one with --loss-weight {'|'.join(get_args(Weighting))}",
        )
    return cast(Weighting, named)


def remark_on_output(start: Network, loss: LossConfig, reporter: Reporter) -> None:
    """Note a change of a trained network's path or prediction."""
    known = _output_kind(start.config, sampling_defaults(start))
    if start.info is not None and known != (loss.path, loss.prediction):
        reporter.note(
            f"{start.name} predicts {_words(known)}; it is retrained to predict {_words((loss.path, loss.prediction))}"
        )


def teacher_of(path: Path, config: ModelConfig, training: TrainConfig) -> Network:
    """Open the distillation teacher.

    Raises:
        ConfigError: If its latents, classes, path or prediction differ from the student's, or it has no null class for
            dropped labels.
        CheckpointError: If it is missing or damaged.
    """
    teacher = open_network(NetworkSource(checkpoint=path, family=config.family, weights=None))
    for name in SAME_TEACHER:
        theirs, ours = getattr(teacher.config, name), getattr(config, name)
        if theirs != ours:
            differs = f"is {theirs}, the model's {ours}" if name not in STATISTICS else "is not the model's"
            raise ConfigError(
                f"{path.name} can't teach this model: its {name.replace('_', ' ')} {differs}",
                hint="distil from the model's own dense parent",
            )
    if training.label_dropout and not teacher.config.has_null_class:
        raise ConfigError(
            f"{path.name} has no null class for the labels that are dropped", hint="add --label-dropout 0"
        )
    loss = training.loss
    theirs, ours = _output_kind(teacher.config, sampling_defaults(teacher)), (loss.path, loss.prediction)
    if theirs != ours:
        raise ConfigError(
            f"{path.name} can't teach this model: it predicts {_words(theirs)}, the model {_words(ours)}",
            hint="distil from the model's own dense parent, and leave --path and --prediction out",
        )
    return teacher


def _distill_weight(request: FinetuneRequest) -> float:
    """Return the teacher's share of the squared error."""
    if request.distill is None:
        return 0.0
    return DEFAULT_DISTILL if request.distill_weight is None else request.distill_weight


def _output_kind(config: ModelConfig, named: Mapping[str, Any]) -> tuple[str, str]:
    """Return path and prediction of a model from its sampling defaults."""
    defaults = named if config.family == "sit" else {}
    return defaults.get("path", PLAIN_LOSS.path), defaults.get("prediction", PLAIN_LOSS.prediction)


def _words(kind: tuple[str, str]) -> str:
    path, prediction = kind
    return f"{prediction} on the {path} path"

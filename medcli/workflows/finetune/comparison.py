"""Losses before and after a run, and those of a control: the dense parent trained for as many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from medcli.checkpoint.run_state import STATES
from medcli.model.backbone import DiffusionTransformer, empty_model
from medcli.model.layout import tensor_shapes
from medcli.training.config import AUTO, NEVER
from medcli.training.evaluation import evaluate
from medcli.training.selection import Selection
from medcli.workflows.finetune.initial_model import initial_network, with_classes
from medcli.workflows.finetune.setup import CONTROL, FinetuneSetup


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Mean losses on fixed draws, by mediator count; 0 is full attention."""

    num_images: int
    before: Mapping[int, float]
    after: Mapping[int, float]
    control: Mapping[int, float] | None = None
    """Losses of the dense parent after as many steps; a gain it shows too is not due to the mediators."""


def losses_of(setup: FinetuneSetup, model: DiffusionTransformer) -> dict[int, float]:
    """Measure the mean loss of each count of a model, which is moved to the run's device."""
    return evaluate(
        model.to(setup.device),
        setup.data,
        (0, *model.config.mediators),
        seed=setup.training.seed,
        loss=setup.training.loss,
        num_images=setup.num_evaluated,
        batch_size=min(setup.num_evaluated, setup.micro_batch_size),
    )


def averaged_model(setup: FinetuneSetup, weights: Mapping[str, Tensor]) -> DiffusionTransformer:
    """Build the network with a run's averaged weights, without gradients."""
    model = empty_model(setup.config)
    model.load_state_dict(dict(weights), assign=True)
    return model.requires_grad_(False)


def control_of(setup: FinetuneSetup) -> FinetuneSetup:
    """Return the setup of the control: the same run with full attention in every block.

    It starts from the same weights without mediators and trains the same parameters on the same batches.
    """
    request = replace(setup.request, network=replace(setup.request.network, mediators=(), layers=None))
    start = initial_network(request)
    if start.config.num_classes != setup.config.num_classes:
        start = with_classes(start, setup.config.num_classes)
    trained = setup.selection.trained & set(tensor_shapes(start.config))
    return replace(
        setup,
        request=replace(request, control=False, calibrate=False, num_evaluated=setup.num_evaluated),
        start=start,
        training=replace(setup.training, counts=(0,), resume=_resume_of(setup)),
        selection=Selection(trained, start.config),
        output=setup.output / CONTROL,
        identity={**setup.identity, "calibration": False},
    )


def _resume_of(setup: FinetuneSetup) -> str:
    """Return what the control resumes from: the control of the run that is resumed, if it has one."""
    resume, folder = setup.training.resume, setup.resumed_folder
    if resume in (AUTO, NEVER) or folder is None:
        return resume
    return str(folder / CONTROL) if any((folder / CONTROL).glob(STATES)) else AUTO

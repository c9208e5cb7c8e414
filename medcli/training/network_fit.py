"""Fit the mediators of all layers together to the network's output with full attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from medcli.model.backbone import DiffusionTransformer
from medcli.training.calibration_inputs import NoiseStates
from medcli.training.layer_fit import dense_stream, minimise

# Dimension key: B rows of a batch.

RATE = 0.3
"""Factor of the layers' learning rates, since they are near an optimum already."""
LAYER_WEIGHT = 0.4
"""Weight of the layers' mean error beside the network's. Without it layers learn to cancel each other's errors and each
ends further from full attention than it began."""

LEAST_ENERGY = 1e-30
"""Lower limit of a denominator, for networks whose output is zero as at the start of training."""


def fit_network(
    model: DiffusionTransformer,
    states: NoiseStates,
    start: Mapping[str, Tensor],
    counts: tuple[int, ...],
    batches: Sequence[Tensor],
    progress: Callable[[int, int, str], None],
) -> dict[str, Tensor]:
    """Fit all layers by gradient steps on the error of the network's output and, with less weight, of each layer.

    The effect of a layer's error on the output is thus taken into account. Steps alternate between the counts.

    Args:
        states: Inputs.
        start: Initial mediator parameters, by state-dict name.
        counts: Mediator counts.
        batches: Rows of each step.
        progress: Called after each step, as `Reporter.progress`.

    Returns:
        The fitted parameters.
    """

    def loss_of(values: Mapping[str, Tensor], rows: Tensor, step: int) -> Tensor:
        progress(step + 1, len(batches), "steps")
        count = counts[step % len(counts)]
        batch = states.rows(rows)
        inputs = (batch.x_RCYX, batch.t_R, batch.label_R)
        with torch.no_grad():
            full_BCYX: Tensor = model(*inputs, 0)
        output_BCYX: Tensor = functional_call(model, dict(values), (*inputs, count))
        network = (output_BCYX - full_BCYX).square().sum() / full_BCYX.square().sum().clamp_min(LEAST_ENERGY)
        errors = []
        for number, layer in dense_stream(model, batch, len(rows)):
            reading = layer.read()
            missed = layer.squared_error(reading, count, _within(values, number))
            errors.append(missed / layer.energy(reading).clamp_min(LEAST_ENERGY))
        return network + LAYER_WEIGHT * torch.stack(errors).mean()

    return minimise(loss_of, start, batches, rate=RATE)


def _within(values: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """Parameters of one layer's attention, by their names within it."""
    prefix = f"blocks.{layer}.attn."
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

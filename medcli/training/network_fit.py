"""Fit the mediators of all layers together to the output of the network with full attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from medcli.model.backbone import DiffusionTransformer
from medcli.training.calibration_inputs import NoiseStates
from medcli.training.layer_fit import dense_stream, minimise

# Dimension key: B rows of a batch.

RATE = 0.3
"""Of the learning rates that the layers were fitted with: they are near their best already."""
LAYER_WEIGHT = 0.4
"""Weight of the layers' mean error beside the network's. Without it layers learn to cancel each other's errors, which
takes each of them further from full attention than it was when it was new."""

LEAST_ENERGY = 1e-30
"""Keeps a network that says nothing, as at the start of training, from dividing by zero."""


def fit_network(
    model: DiffusionTransformer,
    states: NoiseStates,
    start: Mapping[str, Tensor],
    counts: tuple[int, ...],
    batches: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Gradient steps on the error of the network's output, and a little on that of each layer.

    A layer's error alone does not know what the rest of the network makes of it; here that counts. Steps take turns
    with the counts.

    Args:
        model: The network.
        states: Inputs.
        start: Mediator parameters to fit, by state-dict name.
        counts: Mediator counts.
        batches: Rows of each step.

    Returns:
        The fitted parameters.
    """

    def loss_of(values: Mapping[str, Tensor], rows: Tensor, step: int) -> Tensor:
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
            missed = layer.miss(reading, count, _within(values, number))
            errors.append(missed / layer.energy(reading).clamp_min(LEAST_ENERGY))
        return network + LAYER_WEIGHT * torch.stack(errors).mean()

    return minimise(loss_of, start, batches, rate=RATE)


def _within(values: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """The parameters of one layer's attention, under the names they have there."""
    prefix = f"blocks.{layer}.attn."
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

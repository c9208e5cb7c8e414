"""Gradient steps on mediator parameters alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

TABLE_LR = 0.1
"""Adam's first learning rate for bias tables: they are added to scores, whose differences are of the order of 1."""
CONVOLUTION_LR = 0.02
"""The same for the convolution, whose weights are fractions of a value."""
CONVOLUTION = ("dwc.weight", "dwc.bias")
"""Names of the parameters that a layer's counts share; its other mediator parameters are bias tables."""


@torch.enable_grad()
def minimise(
    loss_of: Callable[[Mapping[str, Tensor], Tensor, int], Tensor],
    start: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    *,
    rate: float = 1.0,
) -> dict[str, Tensor]:
    """Adam with a rate that falls to zero along a cosine.

    Args:
        loss_of: Given parameters by name, the rows of a batch and the number of the step, the loss: a scalar of the
            order of 1, so that the steps do the same to every network.
        start: Mediator parameters by name; they are not changed.
        batches: Rows of each step.
        rate: Factor of the first learning rates.

    Returns:
        The parameters after the last step.
    """
    fitted = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
    values = list(fitted.values())
    rates = [rate * (CONVOLUTION_LR if name.endswith(CONVOLUTION) else TABLE_LR) for name in fitted]
    optimizer = torch.optim.Adam([{"params": [value], "lr": lr} for value, lr in zip(values, rates, strict=True)])
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, len(batches)))
    for step, rows in enumerate(batches):
        gradients = torch.autograd.grad(loss_of(fitted, rows, step), values, allow_unused=True)
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = gradient
        optimizer.step()
        cosine.step()
    return {name: value.detach() for name, value in fitted.items()}

"""Fit the mediators of one layer to that layer's full attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from medcli.model.backbone import DiffusionTransformer
from medcli.model.block import Block
from medcli.model.linear import modulated_norm
from medcli.model.mediator import MediatorAttention
from medcli.training.calibration_inputs import NoiseStates

TABLE_LR = 0.1
"""Initial learning rate of bias tables, which are added to scores with differences of the order of 1."""
CONVOLUTION_LR = 0.02
"""Initial learning rate of the convolution, whose weights are well below 1."""
CONVOLUTION = ("dwc.weight", "dwc.bias")
"""Parameters that a layer's mediator counts share; the other mediator parameters are bias tables."""


@torch.enable_grad()
def minimise(
    loss_of: Callable[[Mapping[str, Tensor], Tensor, int], Tensor],
    start: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    *,
    rate: float = 1.0,
) -> dict[str, Tensor]:
    """Minimise a loss with Adam and a cosine learning-rate schedule.

    Args:
        loss_of: Loss of parameters by name, the rows of a batch and the step number; a scalar of the order of 1, so
            that learning rates fit all networks.
        start: Initial mediator parameters by name; not changed in place.
        batches: Rows of each step.
        rate: Factor of the initial learning rates.

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


# Dimension key of the convolution: B batch, D channels, N tokens, Y X grid, J = 10 features: nine taps and a constant.

TAPS = 9
RIDGE = 1e-6
"""Ridge as a share of the diagonal's mean: the taps of a constant channel are undetermined."""
MAX_FEATURES = 2**23
"""Maximum float64 features in memory."""


class NormalEquations:
    """Normal equations of a least-squares problem for each channel, accumulated in float64.

    Args:
        channels: Channels of the convolution.
        device: Device of the batches.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        features = TAPS + 1
        if device.type == "mps":  # which has no float64
            device = torch.device("cpu")
        self.gram_DJJ = torch.zeros(channels, features, features, dtype=torch.float64, device=device)
        self.moment_DJ = torch.zeros(channels, features, dtype=torch.float64, device=device)

    def add(self, value_BDYX: Tensor, wanted_BDN: Tensor) -> None:
        """Add inputs of the convolution and its target outputs."""
        _, channels, height, width = value_BDYX.shape
        size = max(1, MAX_FEATURES // (channels * height * width * (TAPS + 1)))
        device = self.gram_DJJ.device
        value_BDYX, wanted_BDN = value_BDYX.to(device), wanted_BDN.to(device)
        for value, wanted in zip(value_BDYX.split(size), wanted_BDN.split(size), strict=True):
            features_DJM = features(value)
            wanted_DM = wanted.transpose(0, 1).flatten(1).double()
            self.gram_DJJ += features_DJM @ features_DJM.mT
            self.moment_DJ += (features_DJM @ wanted_DM[..., None])[..., 0]

    def solve(self) -> tuple[Tensor, Tensor]:
        """Weight (D, 1, 3, 3) and bias (D,) of the least squared error, float64."""
        mean_D = self.gram_DJJ.diagonal(dim1=1, dim2=2).mean(1)
        identity_JJ = torch.eye(TAPS + 1, dtype=torch.float64, device=mean_D.device)
        damped_DJJ = self.gram_DJJ + RIDGE * mean_D[:, None, None] * identity_JJ
        solution_DJ = torch.linalg.solve(damped_DJJ, self.moment_DJ)
        return solution_DJ[:, :TAPS].reshape(-1, 1, 3, 3), solution_DJ[:, TAPS]


def features(value_BDYX: Tensor) -> Tensor:
    """Return the regressors of a padded 3 x 3 convolution, taps row by row, then 1; (D, J, B N) float64."""
    batch, channels, height, width = value_BDYX.shape
    single = value_BDYX.double().reshape(batch * channels, 1, height, width)
    taps_BDTN = F.unfold(single, kernel_size=3, padding=1).reshape(batch, channels, TAPS, height * width)
    ones_BD1N = taps_BDTN.new_ones(batch, channels, 1, height * width)
    return torch.cat([taps_BDTN, ones_BD1N], dim=2).permute(1, 2, 0, 3).flatten(2)


# Dimension key: R rows (inputs of the network), B rows of a batch, H heads, N latent tokens, K head width, D width.

ALL_ROWS = slice(None)


@dataclass(frozen=True, slots=True)
class AttentionSample:
    """Input of a layer's attention on some rows, and the output of full attention."""

    input_BND: Tensor
    full_BND: Tensor
    """Full attention's output, after the projection."""
    gate_B1D: Tensor
    """Gate of the output before it is added to the residual stream."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A converted layer and its inputs from the dense parent."""

    block: Block
    attention: MediatorAttention
    """The block's attention."""
    x_RND: Tensor
    """The residual stream before the block."""
    condition_RD: Tensor

    @torch.no_grad()
    def read(self, rows: Tensor | slice = ALL_ROWS) -> AttentionSample:
        """Compute the attention's input and the output of full attention for some rows."""
        shift_BD, scale_BD, gate_BD = self.block.modulation(self.condition_RD[rows])[:3]
        input_BND = modulated_norm(self.x_RND[rows], shift_BD, scale_BD, self.block.norm1)
        return AttentionSample(input_BND, self.attention(input_BND, 0), gate_BD[:, None])

    @torch.no_grad()
    def energy(self, reading: AttentionSample) -> Tensor:
        """Sum of squares of full attention's residual update without the projection's bias, which all counts share."""
        return ((reading.full_BND - self.attention.proj.bias) * reading.gate_B1D).square().sum()

    def squared_error(self, reading: AttentionSample, num_mediators: int, values: Mapping[str, Tensor]) -> Tensor:
        """Sum of squared differences between the residual updates of a count and of full attention.

        Args:
            num_mediators: The count.
            values: Attention parameters by name that replace its own.
        """
        output_BND: Tensor = functional_call(self.attention, dict(values), (reading.input_BND, num_mediators))
        return ((output_BND - reading.full_BND) * reading.gate_B1D).square().sum()

    @torch.no_grad()
    def errors(self, counts: Iterable[int], parts: Iterable[slice]) -> dict[int, float]:
        """Relative squared error of each count over some rows; see `calibration.LayerError`."""
        missed, whole = dict.fromkeys(counts, 0.0), 0.0
        for rows in parts:
            reading = self.read(rows)
            whole += float(self.energy(reading))
            for count in missed:
                missed[count] += float(self.squared_error(reading, count, {}))
        return {count: ratio(miss, whole) for count, miss in missed.items()}


def dense_stream(model: DiffusionTransformer, states: NoiseStates, part_size: int) -> Iterator[tuple[int, Layer]]:
    """Yield each converted layer, by number, with its inputs under full attention in all layers.

    Read a layer before taking the next one: the residual stream is updated in place.

    Args:
        model: Any model with mediators.
        states: Inputs.
        part_size: Rows of a forward pass.
    """
    with torch.no_grad():
        x_RND = model.x_embedder(states.x_RCYX) + model.pos_embed
        condition_RD = model.t_embedder(states.t_R) + model.y_embedder(states.label_R)
    for number in range(model.config.mediator_layers[-1] + 1):
        block = model.blocks[number]
        assert isinstance(block, Block)
        if isinstance(block.attn, MediatorAttention):
            yield number, Layer(block, block.attn, x_RND, condition_RD)
        with torch.no_grad():
            for rows in row_parts(len(x_RND), part_size):
                x_RND[rows] = block(x_RND[rows], condition_RD[rows], 0)


def ratio(part: float, whole: float) -> float:
    """Return a relative error; 0 if the whole is 0, as behind a closed gate."""
    return part / whole if whole > 0 else 0.0


def row_parts(num_rows: int, size: int, start: int = 0) -> Iterator[slice]:
    """Split rows into slices of a size, the last one perhaps shorter."""
    for first in range(start, num_rows, size):
        yield slice(first, min(first + size, num_rows))


@torch.no_grad()
def solve_convolution(layer: Layer, counts: tuple[int, ...], parts: Iterable[slice]) -> None:
    """Solve for the convolution that best compensates the mediators' error before the projection, in place.

    All counts share it, so the target is their mean error.
    """
    attention = layer.attention
    equations = NormalEquations(attention.proj.in_features, layer.x_RND.device)
    for rows in parts:
        query_BND, key_BND, value_BND = attention.project(layer.read(rows).input_BND)
        query_BHNK, key_BHNK = attention.placed_heads(query_BND), attention.placed_heads(key_BND)
        value_BHNK = attention.split_heads(value_BND)
        wanted_BND = F.scaled_dot_product_attention(query_BHNK, key_BHNK, value_BHNK).transpose(1, 2).flatten(2)
        for count in counts:
            scores = attention.scores(query_BND, key_BND, count)
            wanted_BND = wanted_BND - attention.mediate(*scores, value_BND) / len(counts)
        equations.add(attention.grid(value_BND), wanted_BND.transpose(1, 2))
    for parameter, solution in zip(attention.dwc.parameters(), equations.solve(), strict=True):
        parameter.copy_(solution)


def fit_layer(
    layer: Layer, start: Mapping[str, Tensor], counts: tuple[int, ...], batches: Sequence[Tensor], mean_energy: float
) -> dict[str, Tensor]:
    """Fit a layer by gradient steps on the sum of the counts' errors.

    Args:
        layer: The layer.
        start: Initial attention parameters to fit, by name; none of counts other than `counts`.
        counts: Mediator counts.
        batches: Rows of each step.
        mean_energy: Mean `energy` of a row, the unit of the loss.

    Returns:
        The fitted parameters.
    """

    def loss_of(values: Mapping[str, Tensor], rows: Tensor, step: int) -> Tensor:
        reading = layer.read(rows)
        missed = torch.stack([layer.squared_error(reading, count, values) for count in counts]).sum()
        return missed / (mean_energy * len(rows))

    return minimise(loss_of, start, batches)

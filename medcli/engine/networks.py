"""The network of each ladder index, and classifier-free guidance around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.diffusion.guidance import REFERENCE_CHANNELS, combine, power_cosine_scale
from medcli.diffusion.interpolant import over_images
from medcli.diffusion.steps import Predict
from medcli.errors import ConfigError
from medcli.model.attention import Biases
from medcli.model.backbone import DiffusionTransformer
from medcli.model.block import Block, RunBlock
from medcli.runtime.compilation import compiled_function, require_compiler

# Dimension key: B batch, C latent channels, Y X latent height and width.

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latent_BCYX, t_B, label_B) -> raw output, at a fixed mediator count."""


ALWAYS = (0.0, 1.0)
"""Guidance interval that covers all of sampling."""


@dataclass(frozen=True, slots=True)
class LadderNetwork:
    """The network of one ladder index."""

    forward: Network
    config: ModelConfig
    num_mediators: int
    """0 is full attention."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guidance:
    """Classifier-free guidance. The conditional and the null half of an image run in one batch of twice the rows."""

    scale: float = 1.0
    """1 is off: the null half is not computed."""
    channels: int | None = REFERENCE_CHANNELS
    """Leading latent channels that are guided, None for all."""
    interval: tuple[float, float] = ALWAYS
    """Times at which guidance starts and ends, see `medcli.engine.guidance_phases`. Outside only the conditional half
    runs.

    Source: arXiv 2404.07724.
    """
    power: float | None = None
    """Exponent of the growing scale (`power_cosine_scale`): the higher, the later it grows; None: constant scale."""

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ConfigError(
                f"--cfg-interval {low:g},{high:g}: expected 0 <= LO <= HI <= 1",
                hint="0 is noise, 1 the data",
            )
        if self.power is not None and not 0 < self.power < math.inf:
            raise ConfigError(f"--cfg-power must be a positive number, got {self.power:g}", hint="MDTv2's is 4")

    @property
    def is_on(self) -> bool:
        """True if the null half is ever computed."""
        return self.scale != 1.0 and self.interval[0] < self.interval[1]

    @property
    def is_partial(self) -> bool:
        """True if only some steps are guided."""
        return self.is_on and tuple(self.interval) != ALWAYS

    @property
    def num_halves(self) -> int:
        """Forward passes per image of a network call inside the interval."""
        return 2 if self.is_on else 1


def ladder_networks(
    models: DiffusionTransformer | Mapping[int, DiffusionTransformer],
    counts: tuple[int, ...],
    *,
    compiled: bool = False,
    absorb: bool = True,
) -> tuple[LadderNetwork, ...]:
    """Build the network of each mediator count of a schedule.

    Args:
        models: One model that holds every count, or a model for each count; weights must not change meanwhile.
        counts: Mediator count of each ladder index, 0 for full attention.
        compiled: Run blocks with `torch.compile`: one graph per ladder index and kind of block.
        absorb: Allow skipping queries and keys where that is cheaper, see `medcli.model.absorption`.

    Raises:
        ConfigError: If a model does not hold its count, or the models do not fit together.
        EnvironmentProblem: If no compiler is installed.
    """
    of_count = dict.fromkeys(counts, models) if isinstance(models, DiffusionTransformer) else models
    networks = tuple(_ladder_network(of_count[count], count, compiled=compiled, absorb=absorb) for count in counts)
    first = networks[0]
    for network in networks[1:]:
        if _geometry(network.config) != _geometry(first.config):
            raise ConfigError(
                f"models for {first.num_mediators} and {network.num_mediators} mediators have other latents or classes",
                hint="sizes may differ, but not family, latent shape or classes; compare them with medcli inspect",
            )
    return networks


def _ladder_network(model: DiffusionTransformer, num_mediators: int, *, compiled: bool, absorb: bool) -> LadderNetwork:
    model.config.resolve_count(num_mediators)  # refuses a count the model does not hold
    run_block: RunBlock = Block.__call__
    if compiled:
        require_compiler(model.pos_embed.device)
        # All blocks with the same attention share the one graph, so that it takes seconds, not minutes.
        run_block = compiled_function(Block.forward)
    if compiled or model.pos_embed.is_cuda:
        run_block = _with_biases(run_block, num_mediators)

    def forward(latent_BCYX: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
        output_BCYX: Tensor = model(
            latent_BCYX, t_B, label_B, num_mediators, run_block=partial(run_block, absorb=absorb)
        )
        return output_BCYX

    return LadderNetwork(forward, model.config, num_mediators)


def _with_biases(run_block: RunBlock, num_mediators: int) -> RunBlock:
    """Hand blocks their position biases, so that a call composes none.

    On a CPU the layer's own cache holds them, which sees new weights. On a GPU that would wait for the device, so they
    are composed in the first call only: weights must not change as long as the result is used.
    """
    composed: dict[Block, Biases] = {}

    def run(block: Block, *inputs: Tensor | int, **joined: Any) -> Tensor:
        if block not in composed or not block.attn.qkv.weight.is_cuda:
            composed[block] = block.attn.composed(num_mediators)
        return run_block(block, *inputs, biases=composed[block], **joined)

    return run


def _geometry(config: ModelConfig) -> tuple[object, ...]:
    """Return what models that share an image's state must agree on; their sizes may differ."""
    shape = (config.in_channels, config.latent_size, config.latent_scale, config.autoencoder)
    labels = (config.num_classes, config.has_null_class)
    return (config.is_gaussian, config.is_gaussian and config.learn_sigma, *shape, *labels)


def guided(network: LadderNetwork, label_B: Tensor, guidance: Guidance) -> Predict:
    """Return the function a solver calls: the network under fixed labels, with guidance.

    Args:
        label_B: int64 label of each image.
        guidance: Guidance settings; without guidance only the conditional half runs.
    """
    if not guidance.is_on:
        return lambda x_BCYX, t_B: network.forward(x_BCYX, t_B, label_B)
    both_labels = torch.cat([label_B, torch.full_like(label_B, network.config.null_class)])

    def predict(x_BCYX: Tensor, t_B: Tensor) -> Tensor:
        output = network.forward(torch.cat([x_BCYX, x_BCYX]), torch.cat([t_B, t_B]), both_labels)
        cond, null = output.chunk(2)
        scale: float | Tensor = guidance.scale
        if guidance.power is not None:
            scale = over_images(power_cosine_scale(guidance.scale, guidance.power, t_B), x_BCYX)
        return combine(cond, null, scale, guidance.channels, latent_channels=x_BCYX.shape[1])

    return predict

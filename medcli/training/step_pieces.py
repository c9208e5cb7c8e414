"""A training step taken apart: the kinds of blocks its network has, and what stands before and after them.

Estimates run one block of each kind and add up, so that a large network need not be built to know what it will take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from medcli.config import ModelConfig
from medcli.model.backbone import DiffusionTransformer
from medcli.model.block import Block, attention_of
from medcli.model.layout import SIDE_BLOCK, block_kinds, block_names, blocks
from medcli.training.block_autocast import called_with
from medcli.training.objective import LadderObjective, native_time
from medcli.training.optimizers import OptimizerName
from medcli.training.selection import Selection

# Dimension key: B images, N latent tokens, D model width, C channels, Y X latent height and width.

Module = TypeVar("Module", bound=nn.Module)

FLOAT_BYTES = 4
AFTER_BLOCKS = ("final_layer.", "mask_token", SIDE_BLOCK)
"""What names of parameters start with that no block's input depends on, unless tokens are masked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShape:
    """What decides how much one process computes and keeps in a step."""

    config: ModelConfig
    selection: Selection
    counts: tuple[int, ...]
    """Mediator counts trained, 0 for full attention."""
    num_images: int
    """Images of a step in this process."""
    micro_batch_size: int
    """Images of one pass."""
    dtype: torch.dtype = torch.float32
    """float32, or the type of the blocks' products."""
    is_checkpointed: bool = False
    """Whether blocks keep their input alone and run again in the backward pass."""
    teacher: ModelConfig | None = None
    """The network that is distilled."""
    is_masked: bool = False
    """Whether a second pass with tokens left out follows each. It is taken to cost as much, which is a little more than
    it does."""

    optimizer: OptimizerName = "adamw"

    @property
    def is_accumulated(self) -> bool:
        """Whether the step has several passes."""
        return self.is_masked or self.micro_batch_size < self.num_images

    @property
    def stream_bytes(self) -> int:
        """What one block hands to the next, for a micro-batch."""
        return self.micro_batch_size * stream_bytes(self.config)


def stream_bytes(config: ModelConfig, layer: int = 0) -> int:
    """What a block hands to the next, for one image."""
    place = blocks(config)[layer]
    return place.num_tokens * place.width * FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class Kind:
    """Blocks that do the same."""

    layer: int
    """The first of them."""
    trained: frozenset[str]
    """Names of its trained parameters, the block's own name left out."""
    is_reached: bool
    """Whether something before it is trained, so that gradients go through its input."""

    @property
    def has_gradient(self) -> bool:
        """Whether the backward pass comes here at all."""
        return self.is_reached or bool(self.trained)


def kinds_of(step: StepShape) -> Mapping[Kind, int]:
    """Kinds of blocks, and how many there are of each."""
    found: list[Kind] = []
    first_of: dict[tuple[int, bool, frozenset[str], bool], Kind] = {}
    starts = tuple(f"{name}." for name in block_names(step.config))
    is_reached = any(not name.startswith((*starts, *AFTER_BLOCKS)) for name in step.selection.trained)
    for layer, (shape, start) in enumerate(zip(block_kinds(step.config), starts, strict=True)):
        trained = frozenset(name[len(start) :] for name in step.selection.trained if name.startswith(start))
        key = (shape, layer in step.config.mediator_layers, trained, is_reached)
        found.append(first_of.setdefault(key, Kind(layer, trained, is_reached)))
        is_reached = is_reached or bool(trained)
    return Counter(found)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the network that can be run alone."""

    module: nn.Module
    forward: Callable[[int, int], Tensor]
    """(images, mediator count) -> output."""


def block_piece(step: StepShape, kind: Kind, device: torch.device) -> Piece:
    """A block of a kind, with zeros for weights."""
    config, place = step.config, blocks(step.config)[kind.layer]
    with torch.device("meta"):
        attention = attention_of(config, place, mediated=kind.layer in config.mediator_layers)
        block = Block(config, place, attention)
    zeroed(block, kind.trained, device)

    def forward(num_images: int, count: int) -> Tensor:
        def tokens() -> Tensor:
            zeros_BND = torch.zeros(num_images, place.num_tokens, place.width, device=device)
            return zeros_BND.requires_grad_(kind.is_reached)

        joined = {"skip_BND": tokens()} if place.has_skip else {}
        condition_BD = torch.zeros(num_images, config.hidden_size, device=device)
        with called_with([block], device=device, dtype=step.dtype, is_checkpointed=step.is_checkpointed):
            output_BND: Tensor = block(tokens(), condition_BD, count, **joined)
        return output_BND

    return Piece(block, forward)


def ends_piece(step: StepShape, device: torch.device) -> Piece:
    """The network with blocks that pass on what they get: embedding, final layer, loss; zeros for weights."""
    config = replace(step.config, mediators=(), mediator_layers=())
    with torch.device("meta"):
        model = DiffusionTransformer(config)
    for name in block_names(config):
        model.set_submodule(name, nn.Identity())
    zeroed(model, step.selection.trained, device)
    model.forward = partial(model.forward, run_block=_pass_on)  # type: ignore[method-assign]
    objective = LadderObjective(model)

    def forward(num_images: int, count: int) -> Tensor:
        del count
        data_BCYX = torch.zeros(num_images, config.in_channels, config.latent_size, config.latent_size, device=device)
        label_B = torch.zeros(num_images, dtype=torch.long, device=device)
        t_B = native_time(config.family, torch.full((num_images,), 0.5, device=device))
        loss: Tensor = objective(data_BCYX, data_BCYX, t_B, label_B, (0,) * num_images).mean()
        return loss

    return Piece(objective, forward)


def _pass_on(block: nn.Module, x_BND: Tensor, *unused: object, **joined: object) -> Tensor:
    return x_BND


def zeroed(module: Module, trained: Iterable[str], device: torch.device) -> Module:
    """A module from the meta device with zeros for weights; drawing numbers would move torch's generator.

    Args:
        module: On the meta device.
        trained: Names of the parameters that get a gradient.
        device: Where it goes.
    """
    module.to_empty(device=device)
    names = frozenset(trained)
    for name, parameter in module.named_parameters():
        nn.init.zeros_(parameter)
        parameter.requires_grad_(name in names)
    return module

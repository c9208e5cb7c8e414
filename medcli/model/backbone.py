"""The diffusion transformer of every family, with full or mediator attention in each block.

Parameter names are upstream's, so official state dicts load with no renaming.
Source: DiT (arXiv 2212.09748), SiT (arXiv 2401.08740); reference-facts 1.
"""

from __future__ import annotations

import math
import re
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from medcli.config import Family, ModelConfig
from medcli.errors import ConfigError, require_complete
from medcli.model.block import NO_MASKS, Block, FinalLayer, RunBlock, RunBlocks, TokenMasks, attention_of
from medcli.model.edt import edt_parts, edt_route
from medcli.model.embed import LabelEmbedder, PatchEmbed, TimestepEmbedder
from medcli.model.grid_tables import position_table
from medcli.model.layout import block_names, blocks, side_block
from medcli.model.mdt import mdt_parts, mdt_route

# Dimension key: B batch, N latent tokens, D model width, C channels, Y X latent height and width.


def straight_route(
    model: DiffusionTransformer, x_BND: Tensor, condition_BD: Tensor, run: RunBlocks, masks: TokenMasks
) -> Tensor:
    """Run the blocks in order: DiT and SiT, which have no masks."""
    for block in model.blocks:
        x_BND = run(block, x_BND)
    return x_BND


ROUTES = {"dit": straight_route, "sit": straight_route, "edt": edt_route, "mdtv2": mdt_route}
"""Order of the blocks in each family."""
require_complete("family", ROUTES, get_args(Family))


class DiffusionTransformer(nn.Module):
    """A class-conditional diffusion transformer.

    The model has no modes: the mediator count is an argument of the call, and label dropout belongs to the trainer.
    Weights are uninitialised until a checkpoint is loaded or `medcli.model.backbone.initialise` is called.
    """

    # All families but MDTv2.
    blocks: nn.ModuleList
    # EDT.
    down_blocks: nn.ModuleList
    up_blocks: nn.ModuleList
    concat_blocks: nn.ModuleList
    # MDTv2, beside three lists of blocks.
    sideblocks: nn.ModuleList
    mask_token: nn.Parameter
    decoder_pos_embed: nn.Parameter

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.origin: Any = None
        """Description of the checkpoint it was loaded from, by `medcli.load`: a `CheckpointInfo`."""
        width = config.hidden_size
        learns_positions = config.family == "mdtv2"
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_tokens, width), requires_grad=learns_positions)
        self.x_embedder = PatchEmbed(config.in_channels, width, config.patch_size)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(config.num_label_rows, width)
        self._add_blocks(config)
        if config.family == "edt":
            for name, parts in edt_parts(config).items():
                self.add_module(name, parts)
        if config.family == "mdtv2":
            for name, parameter in mdt_parts(config.num_tokens, width).items():
                self.register_parameter(name, parameter)
        self.final_layer = FinalLayer(width, config.patch_size**2 * config.out_channels, config.norm)

    def _add_blocks(self, config: ModelConfig) -> None:
        """Register every block under its name in the state dict."""
        places = list(blocks(config)) + ([side_block(config)] if config.family == "mdtv2" else [])
        for layer, geometry in enumerate(places):
            attention = attention_of(config, geometry, mediated=layer in config.mediator_layers)
            group = geometry.name.partition(".")[0]
            if not hasattr(self, group):
                self.add_module(group, nn.ModuleList())
            cast(nn.ModuleList, self.get_submodule(group)).append(Block(config, geometry, attention))

    def ordered_blocks(self) -> list[Block]:
        """Return the blocks in the order they run, which is how they are numbered."""
        return [cast(Block, self.get_submodule(name)) for name in block_names(self.config)]

    def forward(
        self,
        latent_BCYX: Tensor,
        t_B: Tensor,
        label_B: Tensor,
        num_mediators: int | None = None,
        masks: TokenMasks = NO_MASKS,
        *,
        run_block: RunBlock = Block.__call__,
    ) -> Tensor:
        """Run the network on a noisy latent, as upstream's `forward` does.

        Args:
            latent_BCYX: (B, in_channels, latent_size, latent_size), scaled latent.
            t_B: (B,) native time: SiT floats in [0, 1], 0 = noise; others integers 0..999, 999 = most noise.
            label_B: (B,) integer labels; `num_classes` is the null class.
            num_mediators: Mediator count of the ladder; None = the largest, 0 = full attention in every layer.
            masks: Tokens left out in masked training, by site, see `medcli.model.block`.
            run_block: Calls a block, such as its compiled `forward`.

        Returns:
            DiT, EDT, MDTv2: (B, out_channels, Y, X), noise prediction and, with learn_sigma, variance channels.
            SiT: (B, in_channels, Y, X). The type is the latent's, whatever the parameters' type.

        Raises:
            ConfigError: If the count is not in the ladder or the latent does not fit the model.
        """
        config = self.config
        count = config.resolve_count(num_mediators)
        if latent_BCYX.shape[1:] != (config.in_channels, config.latent_size, config.latent_size):
            raise ConfigError(
                f"latent of shape {tuple(latent_BCYX.shape)} does not fit a model of "
                f"(B, {config.in_channels}, {config.latent_size}, {config.latent_size})"
            )
        # The residual stream stays float32; narrower types are for the products of the blocks. That halves the error
        # of bfloat16.
        dtype = torch.promote_types(self.pos_embed.dtype, torch.float32)
        x_BND = self.x_embedder(latent_BCYX.to(dtype)) + self.pos_embed
        condition_BD = self.t_embedder(t_B) + self.y_embedder(label_B)

        def run(block: Block, x_BND: Tensor, **joined: Tensor | None) -> Tensor:
            return run_block(block, x_BND, condition_BD, count, **joined)

        x_BND = ROUTES[config.family](self, x_BND, condition_BD, run, masks)
        out_BCYX = self.unpatchify(self.final_layer(x_BND, condition_BD))
        if config.family == "sit":
            # With learn_sigma the second half is dead weight, kept by upstream for checkpoint compatibility.
            out_BCYX = out_BCYX[:, : config.in_channels]
        return out_BCYX.to(latent_BCYX.dtype)

    def unpatchify(self, x_BNP: Tensor) -> Tensor:
        """Arrange patches as an image; features are (row in patch, column in patch, channel), channel fastest."""
        side, patch = self.config.tokens_side, self.config.patch_size
        x = x_BNP.unflatten(2, (patch, patch, self.config.out_channels)).unflatten(1, (side, side))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def empty_model(config: ModelConfig) -> DiffusionTransformer:
    """Create the model on the meta device in evaluation mode, for `load_state_dict(assign=True)`."""
    with torch.device("meta"):
        return DiffusionTransformer(config).eval()


EMBEDDING_STD = 0.02
NORMAL_NAMES = ("_bias", "embedding_table.weight", "relative_position_bias_table", "mask_token")
"""Suffixes of tensors with normal initialisation: mediator and offset biases, labels, the mask token."""
NORM_WEIGHTS = re.compile(r"norm\w*\.weight$")
"""Factors of norms, which start at one."""
ZERO_NAMES = re.compile(r"^(?!down_|concat_).*blocks\.\d+\.adaLN_modulation|^final_layer")
"""Weights initialised to zero; those between the stages of an EDT are not."""


@torch.no_grad()
def initialise(model: DiffusionTransformer, seed: int) -> None:
    """Initialise every parameter in place; the same seed gives the same weights on every device type.

    Linear and patch weights are Xavier uniform with zero biases; label table, time MLP and mediator bias tables normal
    with standard deviation 0.02; depth-wise convolutions uniform in +-1/3; adaLN and the final projection zero, so a
    fresh network returns exactly 0. Source: reference-facts 1.7 and 3.1, edt-facts 1.8.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fresh = torch.zeros(parameter.shape)
        if name.endswith("pos_embed"):
            fresh = torch.from_numpy(
                position_table(fresh.shape[2], math.isqrt(fresh.shape[1]), model.config.position_scale)
            )[None]
        elif NORM_WEIGHTS.search(name):
            fresh.fill_(1)
        elif ".dwc." in name:
            fresh.uniform_(-1 / 3, 1 / 3, generator=generator)
        elif name.endswith(NORMAL_NAMES) or (name.startswith("t_embedder") and fresh.ndim == 2):
            fresh.normal_(std=EMBEDDING_STD, generator=generator)
        elif fresh.ndim >= 2 and not ZERO_NAMES.search(name):
            nn.init.xavier_uniform_(fresh.view(len(fresh), -1), generator=generator)
        parameter.copy_(fresh)


def fresh_model(config: ModelConfig, seed: int = 0) -> DiffusionTransformer:
    """Build a model with the initial weights of `initialise`; torch's global generator is left alone."""
    with torch.random.fork_rng(devices=[]):  # modules draw values of their own when they are built
        model = DiffusionTransformer(config)
    initialise(model, seed)
    return model


@torch.no_grad()
def random_model(config: ModelConfig, seed: int = 0) -> DiffusionTransformer:
    """Build a model with random weights for measurements, in evaluation mode and without gradients.

    A fresh model has zeros where a block ends and returns zeros; here they are small random numbers, so that outputs
    can be compared and no device saves power on them.
    """
    model = fresh_model(config, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.copy_(EMBEDDING_STD * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)

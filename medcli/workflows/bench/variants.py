"""Timed alternatives of one group, and network calls as one such group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from medcli.engine.cost import done_gmacs, pass_gmacs
from medcli.engine.graphs import graphed
from medcli.engine.networks import LadderNetwork, ladder_networks
from medcli.engine.plan import FinishedImage, SamplingPlan, forward_inputs
from medcli.model.absorption import absorbed_saving
from medcli.model.backbone import DiffusionTransformer

# Dimension key: B images of a batch, C latent channels, Y X latent height and width.

DENSE = "dense"
"""Full attention, fused; in the sampling group, the engine with it and a plan's calls."""
MEDIATORS = "mediators"
"""A mediator count, with queries and keys absorbed where that costs less."""
UNABSORBED = "unabsorbed"
"""A mediator count, computing the queries and keys of every token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedVariant:
    """One timed alternative."""

    name: str
    mediators: tuple[int, ...]
    """Mediator counts it uses; empty: full attention."""
    num_images: int
    """Number of images of one run."""
    dtype: str
    compiled: bool
    gmacs_per_call: tuple[float, ...]
    """GMACs of one image's network call at each count, in the papers' convention."""
    executed_per_call: tuple[float, ...]
    """GMACs executed: without the queries and keys that are absorbed."""
    run: Callable[[], Sequence[FinishedImage]]
    """Does the work once; returns no images for network calls."""
    title: str = ""
    """Name of a sampling run for people."""
    plan: SamplingPlan | None = None
    """Plan of a sampling run."""
    scale: float = 1.0
    """Cost of the whole sampling run over that of the steps that are run."""


def networks_by_count(model: DiffusionTransformer, *, compiled: bool) -> dict[int, LadderNetwork]:
    """Return the network at full attention (0) and at each count of its ladder."""
    counts = (0, *model.config.mediators)
    return _graphed(model, ladder_networks(model, counts, compiled=compiled))


def unabsorbed_networks(model: DiffusionTransformer, *, compiled: bool) -> dict[int, LadderNetwork]:
    """Return the network without absorption, at each count of the ladder that has any."""
    counts = tuple(count for count in model.config.mediators if absorbed_saving(model.config, num_mediators=count))
    if not counts:
        return {}
    return _graphed(model, ladder_networks(model, counts, compiled=compiled, absorb=False))


def _graphed(model: DiffusionTransformer, networks: Sequence[LadderNetwork]) -> dict[int, LadderNetwork]:
    """Run the networks as `sample` does; return them by count."""
    return {network.num_mediators: graphed(network, model.pos_embed.device) for network in networks}


def forward_variants(
    networks: Mapping[int, LadderNetwork],
    unabsorbed: Mapping[int, LadderNetwork],
    *,
    batch_size: int,
    device: torch.device,
    dtype: str,
    compiled: bool,
) -> list[TimedVariant]:
    """List one network call at each count, on a batch whose images are at different times.

    Args:
        networks: The network at each count, 0 for full attention, which comes first.
        unabsorbed: The network without absorption, at each count that has any.
        batch_size: Number of images of a call.
        dtype: Name of the network's number format.
        compiled: True: the networks are compiled.
    """

    def variant(name: str, network: LadderNetwork, executed: float) -> TimedVariant:
        count, inputs = network.num_mediators, forward_inputs(network, batch_size, device)

        @torch.no_grad()
        def run() -> Sequence[FinishedImage]:
            network.forward(*inputs)
            return ()

        return TimedVariant(
            name=name,
            mediators=(count,) if count else (),
            num_images=batch_size,
            dtype=dtype,
            compiled=compiled,
            gmacs_per_call=(pass_gmacs(network.config, count),),
            executed_per_call=(executed,),
            run=run,
        )

    variants = []
    for count, network in networks.items():
        variants.append(variant(MEDIATORS if count else DENSE, network, done_gmacs(network.config, count)))
        if count in unabsorbed:
            variants.append(variant(UNABSORBED, unabsorbed[count], pass_gmacs(network.config, count)))
    return variants

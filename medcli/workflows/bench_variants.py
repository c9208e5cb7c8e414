"""What is measured against each other, and network calls as one kind of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from medcli.engine.cost import done_gmacs, pass_gmacs
from medcli.engine.networks import Stage, stages_of
from medcli.engine.plan import FinishedImage, latent_shape_of
from medcli.model.absorption import absorbed_saving
from medcli.model.backbone import DiffusionTransformer

# Dimension key: B images of a batch, C latent channels, Y X latent height and width.

DENSE = "dense"
"""Full attention, fused; in a loop, the engine with it."""
MEDIATORS = "mediators"
"""A mediator count, queries and keys absorbed where that costs less."""
UNABSORBED = "unabsorbed"
"""The same with the queries and keys of every token, as the papers compute it."""
ENGINE = "engine"
PLAIN = "plain"
NUM_TRAIN_TIMESTEPS = 1000
"""Native time is an integer below this, but for SiT."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One of the things that take turns."""

    name: str
    mediators: tuple[int, ...]
    """Counts it uses; empty: full attention."""
    num_images: int
    """Images of one run."""
    dtype: str
    compiled: bool
    gmacs_a_call: tuple[float, ...]
    """Of one image's network call at each count, in the papers' convention."""
    done_a_call: tuple[float, ...]
    """The same as it is really done."""
    run: Callable[[], Sequence[FinishedImage]]
    """Does the work; forward passes make no images."""


def stages_by_count(model: DiffusionTransformer, *, compiled: bool) -> dict[int, Stage]:
    """The network at full attention (0) and at each count of its ladder."""
    counts = (0, *model.config.mediators)
    return dict(zip(counts, stages_of(model, counts, compiled=compiled), strict=True))


def unabsorbed_stages(model: DiffusionTransformer, *, compiled: bool) -> dict[int, Stage]:
    """The network without absorption, at each count of the ladder where there is any."""
    counts = tuple(count for count in model.config.mediators if absorbed_saving(model.config, num_mediators=count))
    if not counts:
        return {}
    return dict(zip(counts, stages_of(model, counts, compiled=compiled, absorb=False), strict=True))


def forward_variants(
    stages: Mapping[int, Stage],
    unabsorbed: Mapping[int, Stage],
    batch_size: int,
    device: torch.device,
    dtype: str,
    *,
    compiled: bool,
) -> list[Variant]:
    """One network call at each count, full attention first, on a batch whose images are at different times.

    Args:
        stages: The network at each count.
        unabsorbed: The network without absorption, at each count that has any.
        batch_size: Images of a call.
        device: Where the network is.
        dtype: What its number format is called.
        compiled: Whether it is compiled.
    """
    config = stages[0].config
    generator = torch.Generator().manual_seed(0)
    latent_BCYX = torch.randn(batch_size, *latent_shape_of(stages[0]), generator=generator).to(device)
    t_B = torch.linspace(0, 0.96, batch_size)
    if config.is_gaussian:
        t_B = (t_B * NUM_TRAIN_TIMESTEPS).long()
    t_B, label_B = t_B.to(device), (torch.arange(batch_size) % config.num_classes).to(device)

    def variant(name: str, stage: Stage, gmacs_done: float) -> Variant:
        @torch.no_grad()
        def run() -> Sequence[FinishedImage]:
            stage.network(latent_BCYX, t_B, label_B)
            return ()

        return Variant(
            name=name,
            mediators=(stage.num_mediators,) if stage.num_mediators else (),
            num_images=batch_size,
            dtype=dtype,
            compiled=compiled,
            gmacs_a_call=(pass_gmacs(config, stage.num_mediators),),
            done_a_call=(gmacs_done,),
            run=run,
        )

    variants = []
    for count, stage in stages.items():
        variants.append(variant(MEDIATORS if count else DENSE, stage, done_gmacs(config, count)))
        if count in unabsorbed:
            variants.append(variant(UNABSORBED, unabsorbed[count], pass_gmacs(config, count)))
    return variants

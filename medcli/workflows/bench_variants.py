"""What is measured against each other, and network calls as one kind of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from medcli.engine.cost import call_gmacs
from medcli.engine.networks import Guidance, Stage, stages_of
from medcli.engine.plan import FinishedImage, latent_shape_of
from medcli.model.backbone import DiffusionTransformer

# Dimension key: B images of a batch, C latent channels, Y X latent height and width.

DENSE = "dense"
"""Full attention, fused; in a loop, the engine with it."""
MEDIATORS = "mediators"
ENGINE = "engine"
PLAIN = "plain"
NUM_TRAIN_TIMESTEPS = 1000
"""DiT's native time is an integer below this."""


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
    """Of one image's network call, at each count."""
    run: Callable[[], Sequence[FinishedImage]]
    """Does the work; forward passes make no images."""


def stages_by_count(model: DiffusionTransformer, *, compiled: bool) -> dict[int, Stage]:
    """The network at full attention (0) and at each count of its ladder; compiled, a graph each."""
    counts = (0, *model.config.mediators)
    return dict(zip(counts, stages_of(model, counts, compiled=compiled), strict=True))


def forward_variants(
    stages: Mapping[int, Stage], batch_size: int, device: torch.device, dtype: str, *, compiled: bool
) -> list[Variant]:
    """One network call at each count, full attention first, on a batch whose images are at different times.

    Args:
        stages: The network at each count.
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

    def runner(stage: Stage) -> Callable[[], Sequence[FinishedImage]]:
        @torch.no_grad()
        def run() -> Sequence[FinishedImage]:
            stage.network(latent_BCYX, t_B, label_B)
            return ()

        return run

    return [
        Variant(
            name=MEDIATORS if count else DENSE,
            mediators=(count,) if count else (),
            num_images=batch_size,
            dtype=dtype,
            compiled=compiled,
            gmacs_a_call=(call_gmacs(config, count, Guidance()),),
            run=runner(stage),
        )
        for count, stage in stages.items()
    ]

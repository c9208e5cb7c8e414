"""What is measured against each other, and network calls as one kind of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medcli.engine.cost import done_gmacs, pass_gmacs
from medcli.engine.networks import LadderNetwork, ladder_networks
from medcli.engine.papers_network import PlainNetwork
from medcli.engine.plan import FinishedImage, latent_shape_of
from medcli.model.absorption import absorbed_saving
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.precision import tf32

# Dimension key: B images of a batch, C latent channels, Y X latent height and width.

DENSE = "dense"
"""Full attention, fused; in a loop, the engine with it."""
MEDIATORS = "mediators"
"""A mediator count, queries and keys absorbed where that costs less."""
UNABSORBED = "unabsorbed"
"""The same with the queries and keys of every token, as the papers compute it."""
ENGINE = "engine"
PLAIN = "plain"
"""The papers' way: of calls, their network; of loops, their loop around it."""
NUM_TRAIN_TIMESTEPS = 1000
"""Native time is an integer below this, but for SiT."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedVariant:
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


def networks_by_count(model: DiffusionTransformer, *, compiled: bool) -> dict[int, LadderNetwork]:
    """The network at full attention (0) and at each count of its ladder."""
    counts = (0, *model.config.mediators)
    return dict(zip(counts, ladder_networks(model, counts, compiled=compiled), strict=True))


def unabsorbed_networks(model: DiffusionTransformer, *, compiled: bool) -> dict[int, LadderNetwork]:
    """The network without absorption, at each count of the ladder where there is any."""
    counts = tuple(count for count in model.config.mediators if absorbed_saving(model.config, num_mediators=count))
    if not counts:
        return {}
    return dict(zip(counts, ladder_networks(model, counts, compiled=compiled, absorb=False), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardContest:
    """One network call each, on a batch whose images are at different times."""

    networks: Mapping[int, LadderNetwork]
    """The network at each count."""
    unabsorbed: Mapping[int, LadderNetwork]
    """The network without absorption, at each count that has any."""
    plain_weights: Mapping[str, Tensor] | None
    """The same weights in float32, for the network as the papers compute it; None where they have none."""
    batch_size: int
    device: torch.device
    dtype: str
    """What the number format of the networks is called; that of the papers' is float32, TF32 on CUDA."""
    compiled: bool

    def variants(self) -> list[TimedVariant]:
        """Each count in every way, full attention first."""
        variants = []
        for count, network in self.networks.items():
            variants.append(self._ours(MEDIATORS if count else DENSE, network, done_gmacs(network.config, count)))
            if count in self.unabsorbed:
                variants.append(self._ours(UNABSORBED, self.unabsorbed[count], pass_gmacs(network.config, count)))
            if self.plain_weights is not None:
                variants.append(self._papers(self.plain_weights, count))
        return variants

    def _ours(self, name: str, network: LadderNetwork, gmacs_done: float) -> TimedVariant:
        inputs = self._inputs()

        @torch.no_grad()
        def run() -> Sequence[FinishedImage]:
            network.forward(*inputs)
            return ()

        return self._variant(name, network.num_mediators, gmacs_done, run, dtype=self.dtype, compiled=self.compiled)

    def _papers(self, weights: Mapping[str, Tensor], count: int) -> TimedVariant:
        config, inputs = self.networks[count].config, self._inputs()
        network = PlainNetwork(weights, config, count)

        @torch.no_grad()
        def run() -> Sequence[FinishedImage]:
            with tf32(self.device):
                network(*inputs)
            return ()

        dtype = "tf32" if self.device.type == "cuda" else "fp32"
        return self._variant(PLAIN, count, pass_gmacs(config, count), run, dtype=dtype, compiled=False)

    def _variant(
        self,
        name: str,
        count: int,
        gmacs_done: float,
        run: Callable[[], Sequence[FinishedImage]],
        *,
        dtype: str,
        compiled: bool,
    ) -> TimedVariant:
        return TimedVariant(
            name=name,
            mediators=(count,) if count else (),
            num_images=self.batch_size,
            dtype=dtype,
            compiled=compiled,
            gmacs_a_call=(pass_gmacs(self.networks[count].config, count),),
            done_a_call=(gmacs_done,),
            run=run,
        )

    def _inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, native times and labels of a batch."""
        config = self.networks[0].config
        generator = torch.Generator().manual_seed(0)
        latent_BCYX = torch.randn(self.batch_size, *latent_shape_of(self.networks[0]), generator=generator)
        t_B = torch.linspace(0, 0.96, self.batch_size)
        if config.is_gaussian:
            t_B = (t_B * NUM_TRAIN_TIMESTEPS).long()
        label_B = torch.arange(self.batch_size) % config.num_classes
        return latent_BCYX.to(self.device), t_B.to(self.device), label_B.to(self.device)

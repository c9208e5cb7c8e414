"""Maps of attention redundancy by layer and step, and tests of the papers' two observations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medcli.engine.attention_observer import LayerScores
from medcli.ladder import ranges

# Dimension key: D layers, I images, L observed steps, H heads of a layer.

Floats = npt.NDArray[np.float64]

SIGMAS = 2
"""A difference must exceed this many standard errors to count."""
QUARTER = 4
"""Early and late are the first and the last of this many parts of the observed steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionMap:
    """Redundancy by layer and step, over images; float64."""

    redundancy_DL: Floats
    """Mean Jensen-Shannon divergence between queries over heads and images, nats. Low is redundant."""
    error_DL: Floats
    """Its standard error over images, the choice of pairs included."""
    distinct_DL: Floats
    """Number of distinct queries of the most demanding head, mean over images."""
    heads: tuple[Floats, ...]
    """(L, H) mean divergence of each head, one array per layer."""
    by_image_DIL: Floats
    """Mean divergence over heads of each image."""
    num_tokens: tuple[int, ...]
    """Queries of a head, by layer: the upper limit of distinct ones."""

    def early(self) -> slice:
        """Return the first quarter of the observed steps, at least one."""
        return slice(0, max(1, self.redundancy_DL.shape[1] // QUARTER))

    def late(self) -> slice:
        """Return the last quarter."""
        return slice(-max(1, self.redundancy_DL.shape[1] // QUARTER), None)

    def change_D(self) -> tuple[Floats, Floats]:
        """Return the rise of the divergence from early to late in each layer, (D,), and its standard error."""
        rise_DI = self.by_image_DIL[..., self.late()].mean(2) - self.by_image_DIL[..., self.early()].mean(2)
        return rise_DI.mean(1), _standard_error(rise_DI)


def average(layers: Sequence[LayerScores], num_tokens: Sequence[int]) -> AttentionMap:
    """Average over heads and images.

    Args:
        layers: Complete scores of at least two images.
        num_tokens: Tokens of each layer.
    """
    by_image_DIL = np.stack([seen.divergence_ILH.mean(axis=2) for seen in layers])
    return AttentionMap(
        redundancy_DL=by_image_DIL.mean(axis=1),
        error_DL=_standard_error(by_image_DIL.transpose(0, 2, 1)),
        distinct_DL=np.stack([seen.distinct_ILH.mean(axis=0).max(axis=1) for seen in layers]),
        heads=tuple(seen.divergence_ILH.mean(axis=0) for seen in layers),
        by_image_DIL=by_image_DIL,
        num_tokens=tuple(num_tokens),
    )


def _standard_error(values: Floats) -> Floats:
    """Return the standard error of the mean over the last axis, images."""
    return np.asarray(values.std(axis=-1, ddof=1) / math.sqrt(values.shape[-1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """Test of one of the papers' observations."""

    holds: bool
    text: str
    """Result in one sentence with its figures."""
    values: dict[str, Any]
    """Figures by name."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        rounded = {name: round(v, 6) if isinstance(v, float) else v for name, v in self.values.items()}
        return {"holds": self.holds, "text": self.text, **rounded}


def redundant_early(seen: AttentionMap) -> Observation:
    """Test if queries are redundant in the early steps.

    "Redundant" means that, averaged over layers, fewer than half of the queries are distinct, the share below which
    mediators cost less than full attention. Source of the observation: arXiv 2408.05710, section 3.
    """
    early = seen.early()
    divergence = float(seen.redundancy_DL[:, early].mean())
    share_D = seen.distinct_DL[:, early].mean(axis=1) / np.array(seen.num_tokens)
    share = float(share_D.mean())
    # A layer of one token has no redundancy.
    holds = share < 0.5 and max(seen.num_tokens) > 1
    text = (
        f"In the first quarter of sampling {100 * share:.1f} % of a layer's queries are distinct in its most demanding "
        f"head (mean over layers); divergence {divergence:.3f} of at most {math.log(2):.3f} nats."
    )
    return Observation(holds=holds, text=text, values={"early": divergence, "distinct_share_early": share})


def falls_with_progress(seen: AttentionMap) -> Observation:
    """Test if redundancy falls, that is divergence rises, from the first quarter of sampling to the last."""
    rise_D, error_D = seen.change_D()
    rise_I = seen.by_image_DIL[..., seen.late()].mean((0, 2)) - seen.by_image_DIL[..., seen.early()].mean((0, 2))
    rise, error = float(rise_I.mean()), float(_standard_error(rise_I))
    less = [layer for layer, up in enumerate(rise_D > SIGMAS * error_D) if up]
    more = [layer for layer, down in enumerate(rise_D < -SIGMAS * error_D) if down]
    text = (
        f"From the first to the last quarter of sampling the mean divergence changes by {rise:+.3f} +- {error:.3f} "
        f"nats; redundancy falls in {layer_words(less)} and grows in {layer_words(more)}."
    )
    values = {"rise": rise, "rise_error": error, "layers_falling": less, "layers_growing": more}
    return Observation(holds=rise > SIGMAS * error, text=text, values=values)


def layer_words(numbers: Sequence[int]) -> str:
    """Format rising layer numbers for a sentence."""
    if not numbers:
        return "no layer"
    return f"layer{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"

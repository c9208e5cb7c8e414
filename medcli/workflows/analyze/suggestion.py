"""Suggest layers and mediator counts from the attention of the dense model.

n mediators carry at most ln n nats from a query to a key: every query reaches the keys through one of n
summaries, and an intermediate step cannot add information. Full attention carries I = ln D nats if D queries are
distinct (`medcli.scores.redundancy`). So n >= D is necessary, and D, not the number of tokens, is what a layer needs.
It is not sufficient, and training changes attention: the suggestion is a starting point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from medcli.config import ModelConfig
from medcli.engine.cost import pass_gmacs
from medcli.runtime.json_records import json_fields
from medcli.workflows.analyze.attention import AttentionMap, layer_words

SHARE = 4
"""Mediators save below half of the tokens; a quarter halves the cost of attention, and leaves a margin."""
PHASES = 3
"""Parts of sampling, each with its own mediator count; the papers' ladder has three."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """Layers and counts to convert with."""

    layers: tuple[int, ...]
    mediators: tuple[int, ...]
    """A ladder, or one count if all phases need the same; empty if no layer qualifies."""
    saving_percent: tuple[float, ...]
    """Multiply-adds saved per forward pass at each count, relative to full attention."""
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**json_fields(self), "saving_percent": [round(saving, 3) for saving in self.saving_percent]}


def suggest(seen: AttentionMap, config: ModelConfig) -> Suggestion:
    """Choose layers with few distinct queries throughout, and the counts they need in each third of sampling.

    Args:
        seen: Attention of the dense model.
        config: The model; its own mediators are ignored.
    """
    peak_D, tokens_D = seen.distinct_DL.max(axis=1), np.array(seen.num_tokens)
    layers = [layer for layer, peak in enumerate(peak_D) if _square(peak) <= tokens_D[layer] // SHARE]
    ladder = _ladder(seen, layers)
    # With different grids, the count of one layer may be too many for another.
    layers = [layer for layer in layers if ladder[-1] <= tokens_D[layer] // SHARE]
    ladder = _ladder(seen, layers)
    if not layers:
        least = int((peak_D / tokens_D).argmin())
        reason = (
            f"no layer has few enough distinct queries for a quarter of its tokens as mediators; the nearest is "
            f"layer {least} with {peak_D[least]:.1f} of {tokens_D[least]}"
        )
        return Suggestion(layers=(), mediators=(), saving_percent=(), reason=reason)
    converted = replace(config, mediators=ladder, mediator_layers=tuple(layers))
    dense = pass_gmacs(converted, 0)
    left = [layer for layer in range(len(peak_D)) if layer not in layers]
    reason = (
        f"in {layer_words(layers)} at most {peak_D[layers].max():.1f} of {tokens_D[layers].max()} queries are "
        f"distinct in any head and step, and n mediators represent at most n distinct queries"
        + (f"; {layer_words(left)} would need more than a quarter of the tokens" if left else "")
        + f". Distinct queries by third of sampling: {', '.join(f'{need:.1f}' for need in _needs(seen, layers))}."
    )
    return Suggestion(
        layers=tuple(layers),
        mediators=ladder,
        saving_percent=tuple(100 * (1 - pass_gmacs(converted, count) / dense) for count in ladder),
        reason=reason,
    )


def _needs(seen: AttentionMap, layers: list[int]) -> list[float]:
    """Return the number of distinct queries in the most demanding of these layers, by phase."""
    parts = np.array_split(seen.distinct_DL[layers], min(PHASES, seen.distinct_DL.shape[1]), axis=1)
    return [float(part.max(initial=1.0)) for part in parts]


def _ladder(seen: AttentionMap, layers: list[int]) -> tuple[int, ...]:
    """Return rising counts for the phases; an image never goes back to fewer, so later phases cover earlier needs."""
    return tuple(sorted(set(accumulate(map(_square, _needs(seen, layers)), max))))


def _square(need: float) -> int:
    """Round up to a perfect square, as counts are pooled to a square grid."""
    return math.ceil(math.sqrt(need) - 1e-6) ** 2

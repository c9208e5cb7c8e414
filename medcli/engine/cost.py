"""What an image cost, from the network calls it really made."""

from __future__ import annotations

from collections.abc import Sequence

from medcli.config import ModelConfig
from medcli.engine.networks import Guidance
from medcli.metrics.macs import closed_form_macs

GIGA = 1e9


def call_gmacs(config: ModelConfig, num_mediators: int, guidance: Guidance) -> float:
    """GMACs of one network call for one image, both halves of guidance included; 0 mediators is full attention."""
    return guidance.num_halves * closed_form_macs(config, num_mediators=num_mediators) / GIGA


def image_gmacs(calls: Sequence[int], gmacs_a_call: Sequence[float]) -> float:
    """GMACs of one image.

    Args:
        calls: Network calls it made at each ladder entry.
        gmacs_a_call: `call_gmacs` of each entry.
    """
    return sum(count * cost for count, cost in zip(calls, gmacs_a_call, strict=True))

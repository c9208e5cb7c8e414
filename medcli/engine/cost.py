"""What an image cost, from the network calls it really made."""

from __future__ import annotations

from collections.abc import Sequence

from medcli.config import ModelConfig
from medcli.engine.networks import Guidance
from medcli.metrics.macs import closed_form_macs

GIGA = 1e9


def pass_gmacs(config: ModelConfig, num_mediators: int) -> float:
    """GMACs of one forward pass for one image; 0 mediators is full attention."""
    return closed_form_macs(config, num_mediators=num_mediators) / GIGA


def call_gmacs(config: ModelConfig, num_mediators: int, guidance: Guidance) -> float:
    """GMACs of one network call for one image inside the guidance interval, both halves included."""
    return guidance.num_halves * pass_gmacs(config, num_mediators)


def image_gmacs(calls: Sequence[int], gmacs_a_call: Sequence[float]) -> float:
    """GMACs of one image.

    Args:
        calls: Network calls, or forward passes, it made at each ladder entry.
        gmacs_a_call: What one of them costs at each entry.
    """
    return sum(count * cost for count, cost in zip(calls, gmacs_a_call, strict=True))

"""GMACs of an image, from the network calls it made."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medcli.config import ModelConfig
from medcli.cost.macs import GIGA, closed_form_macs
from medcli.engine.generate import calls_by_ladder_index
from medcli.model.absorption import absorbed_saving

# Dimension key: L solver steps.


def pass_gmacs(config: ModelConfig, num_mediators: int) -> float:
    """Return the GMACs of a forward pass of one image in the papers' convention; 0 mediators is full attention."""
    return closed_form_macs(config, num_mediators=num_mediators) / GIGA


def done_gmacs(config: ModelConfig, num_mediators: int) -> float:
    """Return the GMACs executed in a forward pass: without absorbed queries and keys (`medcli.model.absorption`)."""
    return pass_gmacs(config, num_mediators) - absorbed_saving(config, num_mediators=num_mediators) / GIGA


def image_gmacs(calls: Sequence[int], gmacs_a_call: Sequence[float]) -> float:
    """Return the GMACs of an image.

    Args:
        calls: Network calls, or forward passes, at each ladder index.
        gmacs_a_call: GMACs of a call, or pass, at each ladder index.
    """
    return sum(count * cost for count, cost in zip(calls, gmacs_a_call, strict=True))


def gmacs_of_moves(passes_L: Tensor, moves: Sequence[tuple[int, ...]], gmacs_a_pass: Sequence[float]) -> list[float]:
    """Return the GMACs of images from their moves along the ladder.

    Args:
        passes_L: Forward passes of each solver step.
        moves: Each image's `switch_steps`.
        gmacs_a_pass: GMACs of a pass at each ladder index.
    """
    # Many images make the same moves.
    known = {
        made: image_gmacs(calls_by_ladder_index(passes_L, made, len(gmacs_a_pass)), gmacs_a_pass) for made in set(moves)
    }
    return [known[made] for made in moves]

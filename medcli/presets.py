"""Named model sizes: `SiT-XL/2` and friends, as data."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from medcli.config import Family, ModelConfig
from medcli.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Size:
    """Depth, width and heads of a preset."""

    depth: int
    hidden_size: int
    num_heads: int


# Source: DiT (arXiv 2212.09748) table 1. SiT uses the same sizes.
SIZES: dict[str, Size] = {
    "S": Size(12, 384, 6),
    "B": Size(12, 768, 12),
    "L": Size(24, 1024, 16),
    "XL": Size(28, 1152, 16),
}
PATCH_SIZES = (2, 4, 8)
FAMILY_TITLES: dict[str, Family] = {"DiT": "dit", "SiT": "sit"}

DEFAULT_PRESET = "SiT-XL/2"
DEFAULT_LADDER = (4, 16, 64)
DEEP = 24
"""Blocks from which `auto` takes a network for the size the paper converts in part (XL; L is as deep)."""


def preset_names() -> list[str]:
    """Every preset name, largest networks last."""
    return [f"{title}-{size}/{patch}" for title in FAMILY_TITLES for size in SIZES for patch in PATCH_SIZES]


def preset_config(name: str, *, resolution_px: int = 256) -> ModelConfig:
    """Architecture of a preset with full attention, 1000 classes and the Stable Diffusion latent space.

    Args:
        name: Such as `SiT-XL/2`; case does not matter.
        resolution_px: Side of the square image, a multiple of 8 times the patch size.

    Raises:
        ConfigError: If there is no such preset (the nearest name is suggested) or the resolution does not fit.
    """
    by_lower = {known.lower(): known for known in preset_names()}
    known = by_lower.get(name.lower())
    if known is None:
        near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
        hint = f"did you mean {by_lower[near[0]]}?" if near else f"presets: {', '.join(preset_names())}"
        raise ConfigError(f"unknown preset {name!r}", hint=hint)
    title, size_name, patch = cast(re.Match[str], re.fullmatch(r"(\w+)-(\w+)/(\d+)", known)).groups()
    size = SIZES[size_name]
    config = ModelConfig(
        family=FAMILY_TITLES[title],
        hidden_size=size.hidden_size,
        depth=size.depth,
        num_heads=size.num_heads,
        patch_size=int(patch),
    )
    return config.at_resolution(resolution_px)


def means_preset(word: str) -> bool:
    """Whether a MODEL on the command line is a preset's name, perhaps a misspelt one, rather than a file's."""
    path = Path(word)
    return word.lower() in map(str.lower, preset_names()) or not (path.suffix or path.exists())


def preset_of(config: ModelConfig) -> str | None:
    """Name of the preset this architecture is, at any resolution and with any attention; None if it is not one."""
    if config.patch_size not in PATCH_SIZES or config.mlp_ratio != 4.0:
        return None
    title = next(title for title, family in FAMILY_TITLES.items() if family == config.family)
    size = Size(config.depth, config.hidden_size, config.num_heads)
    return next((f"{title}-{name}/{config.patch_size}" for name, known in SIZES.items() if known == size), None)


def heads_for_width(hidden_size: int) -> int | None:
    """Head count of the preset with this width, which tensors alone cannot tell; None if no preset has it."""
    return next((size.num_heads for size in SIZES.values() if size.hidden_size == hidden_size), None)


def first_layers(depth: int) -> tuple[int, ...]:
    """The blocks converted when nobody says: the first four. Source: arXiv 2408.05710, SiT-XL/2."""
    return tuple(range(min(4, depth)))


def auto_layers(depth: int) -> tuple[int, ...]:
    """The paper's choice by size: the first four blocks of a deep network (L, XL), all of a shallow one (S, B)."""
    return first_layers(depth) if depth >= DEEP else tuple(range(depth))


def default_ladder(num_tokens: int) -> tuple[int, ...]:
    """The paper's ladder, without the counts that a grid of so few tokens can't use."""
    return tuple(count for count in DEFAULT_LADDER if count < num_tokens) or (1,)

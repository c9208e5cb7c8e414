"""Named model sizes: `SiT-XL/2` and friends, as data."""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import cast

from medcli.config import FAMILIES, Family, ModelConfig
from medcli.errors import ConfigError, require_complete


@dataclass(frozen=True, slots=True)
class Size:
    """Blocks, width and heads of a preset; of an EDT by stage, of an MDTv2 with its decoder."""

    depth: int
    hidden_size: int
    num_heads: int
    stage_depths: tuple[int, ...] = ()
    stage_widths: tuple[int, ...] = ()
    stage_heads: tuple[int, ...] = ()
    decoder_depth: int = 0


def staged(depths: tuple[int, ...], widths: tuple[int, ...], heads: tuple[int, ...]) -> Size:
    """Return a size whose blocks form stages."""
    return Size(sum(depths), widths[0], heads[0], depths, widths, heads)


# Source: DiT (arXiv 2212.09748) table 1. SiT uses the same sizes.
SIZES: dict[str, Size] = {
    "S": Size(12, 384, 6),
    "B": Size(12, 768, 12),
    "L": Size(24, 1024, 16),
    "XL": Size(28, 1152, 16),
}
# Source: edt-facts 1.1. The split of XL is the code's; the published one is another network's (edt-facts 7).
EDT_SIZES: dict[str, Size] = {
    "S": staged((2, 2, 2, 3, 3), (312, 416, 520, 416, 312), (6, 8, 10, 8, 6)),
    "B": staged((2, 2, 2, 3, 3), (624, 832, 1040, 832, 624), (12, 16, 20, 16, 12)),
    "XL": staged((6, 4, 4, 7, 7), (936, 1248, 1560, 1248, 936), (18, 24, 30, 24, 18)),
}
# Source: edt-facts 5: S is trained with 6 blocks in the decoder, XL with 4, the class's default.
MDT_DECODERS = {"S": 6, "B": 4, "L": 4, "XL": 4}
MDT_SIZES: dict[str, Size] = {name: replace(SIZES[name], decoder_depth=blocks) for name, blocks in MDT_DECODERS.items()}
LIGHTNINGDIT_HEADS = {1536: 24, 1792: 28}
"""Heads by width of LightningDiT's sizes that DiT does not have."""
PATCH_SIZES = (2, 4, 8)
FAMILY_TITLES: dict[str, Family] = {"DiT": "dit", "SiT": "sit", "EDT": "edt", "MDTv2": "mdtv2"}
FAMILY_SIZES: dict[Family, dict[str, Size]] = {"dit": SIZES, "sit": SIZES, "edt": EDT_SIZES, "mdtv2": MDT_SIZES}
FAMILY_PATCHES: dict[Family, tuple[int, ...]] = {"dit": PATCH_SIZES, "sit": PATCH_SIZES, "edt": (2,), "mdtv2": (2,)}
for _table in (FAMILY_TITLES.values(), FAMILY_SIZES, FAMILY_PATCHES):
    require_complete("family", _table, FAMILIES)

# Blocks whose attention the references modulate when nobody says. Source: edt-facts 2.3.
AMM_BLOCKS: dict[str, tuple[int, ...]] = {
    "EDT-S": (7, 10),
    "EDT-B": (7, 10),
    "EDT-XL": (23, 25),
    "DiT-XL": (15, 17, 19, 22, 24),
    "DiT-S": (8, 10),
    "MDTv2-S": (8,),
}


@dataclass(frozen=True, slots=True)
class Published:
    """Figures a paper prints for a network at 256 px."""

    gmacs: float
    """Its "GFLOPs"."""
    million_params: float | None = None
    """Trained parameters; None if the paper prints no number."""
    remark: str = ""
    """Reason for a difference from the network."""


_WITHOUT_SKIPS = "the printed figure is that of the DiT of this size: the skip projections are missing"
# Source: reference-facts 8 (the DiT paper); edt-facts 7 (EDT's, which prints MDTv2's too).
PUBLISHED: dict[str, Published] = {
    "DiT-S/2": Published(6.06),
    "DiT-B/2": Published(23.01),
    "DiT-L/2": Published(80.71),
    "DiT-XL/2": Published(118.64),
    "EDT-S/2": Published(2.66, 38.32),
    "EDT-B/2": Published(10.2, 152.2),
    "EDT-XL/2": Published(
        51.83, 708.44, "the printed figures are those of another split into stages (such as 5,5,4,7,7) than the code's"
    ),
    "MDTv2-S/2": Published(6.07, remark=_WITHOUT_SKIPS),
    "MDTv2-B/2": Published(23.02, remark=_WITHOUT_SKIPS),
    "MDTv2-XL/2": Published(118.69, remark=_WITHOUT_SKIPS),
}

DEFAULT_BUNDLE = "fashion"
"""Bundled model, data set, reference and extractor where nothing is named: a folder of `medcli/assets`."""
DEFAULT_PRESET = "SiT-XL/2"
DEFAULT_LADDER = (4, 16, 64)
DEEP = 24
"""Number of blocks from which `auto` converts only the first four, as the paper does for XL."""
PAPER_LAYERS = 4
"""Number of those blocks. Source: arXiv 2408.05710, SiT-XL/2."""


def preset_names() -> list[str]:
    """Return all preset names, largest networks last."""
    return [
        f"{title}-{size}/{patch}"
        for title, family in FAMILY_TITLES.items()
        for size in FAMILY_SIZES[family]
        for patch in FAMILY_PATCHES[family]
    ]


def preset_config(name: str, *, resolution_px: int = 256) -> ModelConfig:
    """Return the architecture of a preset with full attention, 1000 classes and the Stable Diffusion latent space.

    Args:
        name: Such as `SiT-XL/2`; case does not matter, and the patch may be left out where there is one only.
        resolution_px: Side of the square image, a multiple of 8 times the patch size.

    Raises:
        ConfigError: If there is no such preset (the nearest name is suggested) or the resolution does not fit.
    """
    by_lower = _by_lower_name()
    known = by_lower.get(name.lower())
    if known is None:
        near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
        hint = f"did you mean {by_lower[near[0]]}?" if near else f"presets: {', '.join(preset_names())}"
        raise ConfigError(f"unknown preset {name!r}", hint=hint)
    title, size_name, patch = cast(re.Match[str], re.fullmatch(r"(\w+)-(\w+)/(\d+)", known)).groups()
    family = FAMILY_TITLES[title]
    config = ModelConfig(family=family, patch_size=int(patch), **asdict(FAMILY_SIZES[family][size_name]))
    return config.at_resolution(resolution_px)


def _by_lower_name() -> dict[str, str]:
    """Return preset names by every accepted lower-case spelling."""
    names = {known.lower(): known for known in preset_names()}
    of_one_patch = tuple(title for title, family in FAMILY_TITLES.items() if len(FAMILY_PATCHES[family]) == 1)
    short = {key.partition("/")[0]: known for key, known in names.items() if known.startswith(of_one_patch)}
    return names | short


def family_title(family: Family) -> str:
    """Return a family's name in prose and in preset names."""
    return next(title for title, known in FAMILY_TITLES.items() if known == family)


def means_preset(word: str) -> bool:
    """Check whether a MODEL on the command line is a preset name, possibly misspelt, and not a path."""
    path = Path(word)
    is_of_hub = word.startswith("hf:/") or re.fullmatch(r"[\w.-]+/[\w.-]*[A-Za-z][\w.-]*", word) is not None
    return word.lower() in _by_lower_name() or not (path.suffix or path.exists() or is_of_hub)


def preset_of(config: ModelConfig) -> str | None:
    """Return the preset with this architecture, at any resolution and with any attention; None if there is none."""
    if config.patch_size not in FAMILY_PATCHES[config.family] or config.mlp_ratio != 4.0:
        return None
    title = family_title(config.family)
    sizes = FAMILY_SIZES[config.family]
    found = Size(**{field.name: getattr(config, field.name) for field in fields(Size)})
    return next((f"{title}-{name}/{config.patch_size}" for name, size in sizes.items() if size == found), None)


def amm_blocks(config: ModelConfig) -> tuple[int, ...] | None:
    """Return the blocks that the reference code modulates in this network; None if it lists none.

    A SiT gets those of the DiT of its size: the two are one network.
    """
    name = (preset_of(config) or "").partition("/")[0]
    return AMM_BLOCKS.get(name.replace("SiT", "DiT"))


def heads_for_width(hidden_size: int) -> int | None:
    """Return the number of heads of the published network with this width; None if there is none."""
    known = {size.hidden_size: size.num_heads for size in SIZES.values()} | LIGHTNINGDIT_HEADS
    return known.get(hidden_size)


def auto_layers(depth: int) -> tuple[int, ...]:
    """Return the paper's choice: the first four blocks of a deep network (L, XL), all of a shallow one (S, B)."""
    return tuple(range(PAPER_LAYERS if depth >= DEEP else depth))


def default_ladder(num_tokens: int) -> tuple[int, ...]:
    """Return the paper's ladder without the counts that cost as much as full attention of so many tokens."""
    return tuple(count for count in DEFAULT_LADDER if saves(count, num_tokens)) or (1,)


def saves(num_mediators: int, num_tokens: int) -> bool:
    """Return True if mediators cost less than full attention: 4 n N D MACs, not 2 N^2 D (reference-facts 8)."""
    return 2 * num_mediators < num_tokens

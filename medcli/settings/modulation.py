"""Settings of attention modulation by distance (AMM)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medcli.settings.declare import MODULATION, Needs, setting
from medcli.settings.parsers import parse_float

AmmForm = Literal["exp", "cos"]

AUTO = "auto"


def parse_radius(text: str) -> float | Literal["auto"]:
    """Parse `auto` or a radius in tokens."""
    if text == AUTO:
        return "auto"
    radius = parse_float(text)
    if not 0 <= radius < math.inf:
        raise ValueError(text)
    return radius


@dataclass(frozen=True, kw_only=True)
class ModulationSettings:
    """Attention modulation by distance (AMM)."""

    amm: float | Literal["auto"] | None = setting(
        None,
        help="Weight attention by distance, without training, and cut it beyond R tokens; auto: almost nothing is cut. "
        "Changes images, saves no work.",
        panel=MODULATION,
        metavar="auto|R",
        minimum=0,
        parse=parse_radius,
        expects="auto or a radius in tokens",
        default_text="off",
        example="auto",
    )
    amm_blocks: tuple[int, ...] | None = setting(
        None,
        help="Blocks with modulated attention.",
        panel=MODULATION,
        metavar="N,...",
        needs=Needs("amm", words="--amm auto"),
        default_text="the references' for this size",
        example="1,2,3",
    )
    amm_form: AmmForm | None = setting(
        None,
        help="exp: the paper's weight; cos: the reference code's for 512 px.",
        panel=MODULATION,
        needs=Needs("amm", words="--amm auto"),
        default_text="exp",
    )

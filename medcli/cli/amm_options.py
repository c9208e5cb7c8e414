"""Options of attention modulation (AMM). Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medcli.cli import options
from medcli.cli.idle_flags import refuse_without
from medcli.errors import ConfigError

if TYPE_CHECKING:
    from medcli.model.amm import AmmForm
    from medcli.workflows.sample.amm import AmmWish

MODULATION = "Attention modulation (AMM)"
AUTO = "auto"

AmmOpt = Annotated[
    str | None,
    typer.Option(
        "--amm",
        metavar="auto|R",
        help="Weight attention by distance, without training, and cut it beyond R tokens; auto: almost nothing is cut. "
        "Changes images, saves no work.",
        rich_help_panel=MODULATION,
    ),
]
AmmBlocksOpt = Annotated[
    str | None,
    typer.Option(
        "--amm-blocks",
        metavar="N,...",
        help="Blocks it is done in; without it the references' for this size.",
        rich_help_panel=MODULATION,
    ),
]
AmmFormOpt = Annotated[
    str | None,
    options.choice(
        "--amm-form",
        choices=("exp", "cos"),
        help="exp: the paper's; cos: the reference's for 512 px.",
        panel=MODULATION,
    ),
]


def parse_amm(amm: str | None, blocks: str | None, form: str | None) -> AmmWish | None:
    """Read `--amm`, `--amm-blocks` and `--amm-form`.

    Raises:
        ConfigError: If the radius is no number >= 0, or there is one of the others without `--amm`.
    """
    from medcli.workflows.sample.amm import AmmWish

    if amm is None:
        refuse_without("--amm", {"--amm-blocks": blocks, "--amm-form": form}, hint="add --amm auto")
        return None
    return AmmWish(
        radius=None if amm == AUTO else _parse_radius(amm),
        blocks=None if blocks is None else options.parse_ints(blocks, "--amm-blocks"),
        form=cast("AmmForm", form or "exp"),
    )


def _parse_radius(text: str) -> float:
    try:
        radius = float(text)
    except ValueError:
        radius = math.nan
    if not 0 <= radius < math.inf:
        raise ConfigError(f"--amm {text!r} is neither auto nor a radius in tokens", hint="write it like --amm auto")
    return radius


def in_words(report: Mapping[str, Any]) -> str:
    """What modulation was and cost, for people: see `amm_report`."""
    blocks = ", ".join(map(str, report["blocks"]))
    return (
        f"AMM in blocks {blocks}: {report['multiplications_per_pass']:,} multiplications a pass "
        f"({report['extra_percent']:.2g} % more, not among the GMACs); it saves none"
    )

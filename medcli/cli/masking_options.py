"""Options of masked training. Loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medcli.cli import options
from medcli.cli.finetune_options import LOSS
from medcli.cli.idle_flags import refuse_without
from medcli.errors import ConfigError

if TYPE_CHECKING:
    from medcli.training.masking import Masking, Place

MaskOpt = Annotated[
    str | None,
    options.choice(
        "--mask",
        choices=("down", "input"),
        help="Add a pass with tokens left out: inside EDT's down-samplers, or at the input as MDT does.",
        panel=LOSS,
    ),
]
MaskRatiosOpt = Annotated[
    str | None,
    typer.Option(
        "--mask-ratios",
        metavar="LO-HI,...",
        help="Shares left out, drawn for each step: a range a down-sampler, the last for the rest too. "
        "Without it 0.4-0.5,0.1-0.2; of the input 0.3-0.5.",
        rich_help_panel=LOSS,
    ),
]
MaskMidOpt = Annotated[
    str | None,
    typer.Option(
        "--mask-mid",
        metavar="LO-HI|none",
        help="The same inside a first stage of five blocks or more (EDT-XL); without it 0.15-0.25.",
        rich_help_panel=LOSS,
    ),
]


def parse_masking(where: str | None, ratios: str | None, mid: str | None) -> Masking | None:
    """Read `--mask`, `--mask-ratios` and `--mask-mid`.

    Raises:
        ConfigError: If a range can't be read, or there is one without `--mask`.
    """
    from medcli.training.masking import Masking

    if where is None:
        given_alone = {"--mask-ratios": ratios, "--mask-mid": mid}
        refuse_without("--mask", given_alone, hint="add --mask down, or --mask input")
        return None
    if where == "input" and mid is not None:
        raise ConfigError("--mask-mid does nothing with --mask input", hint="leave --mask-mid out")
    given: dict[str, Any] = {}
    if ratios is not None:
        given["ratios"] = tuple(_parse_range(part, "--mask-ratios") for part in ratios.split(","))
    if mid is not None:
        given["mid"] = None if mid == "none" else _parse_range(mid, "--mask-mid")
    return Masking(where=cast("Place", where), **given)


def _parse_range(text: str, flag: str) -> tuple[float, float]:
    """Read `0.4-0.5`."""
    try:
        low, high = map(float, text.split("-"))
    except ValueError as err:
        raise ConfigError(f"{flag}: {text.strip()!r} is not LO-HI", hint=f"write it like {flag} 0.4-0.5") from err
    return low, high

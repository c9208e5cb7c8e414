"""Options several commands share, so that a flag is spelt, checked and explained in one way. Loads no torch.

Text such as `4,16,64` or `0-3` is turned into values by the parsers below, which commands call first thing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from medcli.config import FAMILIES
from medcli.errors import ConfigError

INPUT = "Input"
MODEL = "Model"
SCHEDULE = "Schedule"
SAMPLING = "Sampling"
SCORING = "Scoring"
MACHINE = "Machine"
OUTPUT = "Output"
COMMON = "Common"

Number = TypeVar("Number", int, float)


def choice(*flags: str, choices: Sequence[str], help: str, panel: str) -> Any:
    """Make an option that takes one of a few words, with completion.

    Args:
        flags: Its spellings, the long one first.
        choices: The words.
        help: What it decides.
        panel: Help panel it stands in.
    """

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            near = difflib.get_close_matches(value.lower(), choices, n=1) or choices
            message = f"{flags[0]} {value!r}: expected one of {', '.join(choices)}"
            raise ConfigError(message, hint=f"write it like {flags[0]} {near[0]}")
        return value

    def complete(incomplete: str) -> list[str]:
        return [word for word in choices if word.startswith(incomplete)]

    return typer.Option(
        *flags, metavar="|".join(choices), help=help, rich_help_panel=panel, callback=check, autocompletion=complete
    )


OptionalCheckpointArg = Annotated[
    Path | None,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A checkpoint of any layout convert reads; without one, the bundled digits model.",
        show_default=False,
    ),
]

FamilyOpt = Annotated[
    str | None,
    choice("--family", choices=FAMILIES, help="DiT or SiT, where neither the file nor its name tells.", panel=INPUT),
]
HeadsOpt = Annotated[
    int | None,
    typer.Option(
        "--heads", min=1, metavar="H", help="Attention heads, where the width is no preset's.", rich_help_panel=INPUT
    ),
]
WeightsOpt = Annotated[
    str,
    choice(
        "--weights", choices=("ema", "model"), help="Averaged or raw weights of a training checkpoint.", panel=INPUT
    ),
]

MediatorsOpt = Annotated[
    str | None,
    typer.Option(
        "--mediators",
        metavar="N,...",
        help="Mediator counts: rising perfect squares such as 4,16,64.",
        rich_help_panel=MODEL,
    ),
]
LayersOpt = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="WHICH",
        help="Blocks that attend through mediators: 0-3, 0,2,5, all, none or auto.",
        rich_help_panel=MODEL,
    ),
]
ResOpt = Annotated[
    int | None, typer.Option("--res", min=1, metavar="PX", help="Side of the square image.", rich_help_panel=MODEL)
]
ResListOpt = Annotated[
    str | None,
    typer.Option("--res", metavar="PX,...", help="Sides of the square image, in pixels.", rich_help_panel=MODEL),
]
NumClassesOpt = Annotated[
    int | None,
    typer.Option(
        "--num-classes",
        min=1,
        metavar="K",
        help="Classes, the null class not counted.",
        rich_help_panel=MODEL,
    ),
]

ScheduleOpt = Annotated[
    str | None,
    choice(
        "--schedule",
        choices=("full", "static", "dynamic"),
        help="Full attention, one mediator count, or a count that rises by image and step.",
        panel=SCHEDULE,
    ),
]
RhoOpt = Annotated[
    str | None,
    typer.Option(
        "--rho",
        metavar="R,...",
        help="Falling thresholds of the dynamic schedule, one fewer than the ladder has counts.",
        rich_help_panel=SCHEDULE,
    ),
]
WarmupStepsOpt = Annotated[
    int | None,
    typer.Option(
        "--warmup-steps",
        min=1,
        metavar="N",
        help="First distances that set the dynamic schedule's scale.",
        rich_help_panel=SCHEDULE,
    ),
]
DistanceOpt = Annotated[
    str | None,
    choice(
        "--distance", choices=("l1", "l2"), help="How the dynamic schedule measures a step's change.", panel=SCHEDULE
    ),
]

SeedOpt = Annotated[
    int,
    # Noise is keyed by 64 bits: a longer number would be the same seed as a shorter one.
    typer.Option(
        "--seed", min=0, max=2**64 - 1, metavar="N", help="Start of all randomness.", rich_help_panel=SAMPLING
    ),
]

BatchSizeOpt = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, metavar="N", help="Images in one network call.", rich_help_panel=MACHINE),
]
DeviceOpt = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1 or mps; the best there is if not given.",
        rich_help_panel=MACHINE,
    ),
]
DtypeOpt = Annotated[
    str, choice("--dtype", choices=("fp32", "bf16"), help="Number format of the network.", panel=MACHINE)
]
CompileOpt = Annotated[
    bool,
    typer.Option("--compile", help="Compile the network, one graph a mediator count.", rich_help_panel=MACHINE),
]


def parse_output(text: str) -> Path:
    """Read where a result goes. `-o "$FOLDER"` with nothing in it would mean the folder one happens to be in.

    Raises:
        ConfigError: If nothing is given.
    """
    if not text.strip():
        raise ConfigError("--output is empty", hint="name a place, or leave --output out")
    return Path(text)


OutputOpt = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="PATH", help="Where the result goes.", parser=parse_output, rich_help_panel=OUTPUT
    ),
]
ForceOpt = Annotated[bool, typer.Option("-f", "--force", help="Replace what is there.", rich_help_panel=OUTPUT)]


def _parse_numbers(text: str, flag: str, convert: Callable[[str], Number], example: str) -> tuple[Number, ...]:
    values: list[Number] = []
    for part in text.split(","):
        try:
            values.append(convert(part.strip()))
        except ValueError as err:
            kind = "whole numbers" if convert is int else "numbers"
            message = f"{flag} {text!r}: {part.strip()!r} is not one of comma-separated {kind}"
            raise ConfigError(message, hint=f"write it like {flag} {example}") from err
    return tuple(values)


def parse_ints(text: str, flag: str = "--mediators") -> tuple[int, ...]:
    """Read `4,16,64`.

    Args:
        text: What the user gave.
        flag: Whose value it is, for the message.

    Raises:
        ConfigError: Naming the part that is no whole number.
    """
    return _parse_numbers(text, flag, int, "4,16,64" if flag == "--mediators" else "1,2,3")


def parse_floats(text: str, flag: str = "--rho") -> tuple[float, ...]:
    """Read `0.3,0.1`.

    Args:
        text: What the user gave.
        flag: Whose value it is, for the message.

    Raises:
        ConfigError: Naming the part that is no number, or not a finite one.
    """

    def finite(part: str) -> float:
        value = float(part)
        if value - value != 0:  # true of infinities and NaN only
            raise ValueError(part)
        return value

    return _parse_numbers(text, flag, finite, "0.3,0.1")

"""Settings that select and change the network a command works on."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from medcli.config import FAMILIES, Positions
from medcli.errors import ConfigError
from medcli.presets import auto_layers
from medcli.settings.declare import INPUT, MODEL, Needs, count_setting, setting
from medcli.settings.parsers import parse_ints, parse_path

MAX_HEADS, MAX_RES, MAX_CLASSES = 4096, 16384, 10**7
"""Bounds far above any network's, so that a slip of the finger is a message and not a full memory."""


def parse_name(text: str) -> str:
    """Parse a path or a name, also of the hub; refuse empty text."""
    return text if text.startswith("hf://") else str(parse_path(text))


def name_setting(default: Any = MISSING, *, metavar: str = "NAME|PATH", **declaration: Any) -> Any:
    """Make the field of a setting that is a name or a path; see `setting`."""
    return setting(default, metavar=metavar, parse=parse_name, expects="a path or a name", **declaration)


def parse_mediators(text: str) -> tuple[int, ...]:
    """Parse `4,16,64`; `none` is an empty ladder."""
    return () if text == "none" else parse_ints(text)


@dataclass(frozen=True, kw_only=True)
class NetworkSource:
    """Checkpoint or preset, hints for what its tensors cannot tell, and changes to the architecture.

    `None` keeps what the checkpoint has. A command uses the fields it has flags for.
    """

    checkpoint: str | Path | None = setting(
        None,
        help="Checkpoint of any layout convert reads.",
        panel=INPUT,
        metavar="CHECKPOINT",
        positional=True,
        parse=parse_name,
        expects="a path",
        default_text="the bundled model",
    )
    """Checkpoint file, diffusers folder, preset or hub name; None: the command's default model."""
    download: bool = setting(
        False,
        help="Download a hub name (owner/repo) that is not in the cache; a name with hf:// always is.",
        panel=INPUT,
        decides=False,
    )
    family: str | None = setting(
        None,
        help="Model family, where neither the file nor its name tells; repa and lightningdit become a sit.",
        panel=INPUT,
        choices=(*FAMILIES, "repa", "lightningdit"),
        default_text="from the checkpoint",
    )
    heads: int | tuple[int, ...] | None = count_setting(
        None,
        MAX_HEADS,
        help="Number of heads; needed only if the width matches no preset.",
        panel=INPUT,
        metavar="H",
        default_text="from the checkpoint",
    )
    """Number of attention heads, of an EDT those of each stage."""
    weights: str | None = setting(
        "ema", help="Averaged or raw weights of a training checkpoint.", panel=INPUT, choices=("ema", "model")
    )
    """None: the averaged set if there is one."""
    mediators: tuple[int, ...] | None = setting(
        None,
        help="Mediator counts: rising perfect squares such as 4,16,64.",
        panel=MODEL,
        metavar="N,...|none",
        parse=parse_mediators,
        expects="comma-separated whole numbers, or none",
        default_text="the checkpoint's",
        example="4,16,64",
        short=True,
    )
    """Mediator ladder; empty: none."""
    layers: str | None = setting(
        None,
        help="Blocks that attend through mediators: 0-3, 0,2,5, all, none, or auto, the papers' choice.",
        panel=MODEL,
        metavar="WHICH",
        default_text="the checkpoint's",
        example="0-3",
        short=True,
    )
    """See `parse_layers`."""
    res: int | None = count_setting(
        None,
        MAX_RES,
        help="Side of the square image in pixels.",
        panel=MODEL,
        metavar="PX",
        default_text="the checkpoint's",
        example="256",
        short=True,
    )
    positions: Positions | None = setting(
        None,
        help="At another resolution: interpolate the positions, or start anew as the reference code does.",
        panel=MODEL,
        needs=Needs("res", words="--res PX"),
        default_text="interpolate",
    )
    num_classes: int | None = count_setting(
        None,
        MAX_CLASSES,
        help="Number of classes, excluding the null class.",
        panel=MODEL,
        metavar="K",
        default_text="the checkpoint's",
        example="1000",
    )

    def layers_of(self, depth: int) -> tuple[int, ...] | None:
        """Return the selected blocks of a network of `depth` blocks; None if `layers` is not set.

        Raises:
            ConfigError: If the text selects no blocks, or blocks the network does not have.
        """
        return None if self.layers is None else parse_layers(self.layers, depth)

    def refuse_hints(self, fresh: str) -> None:
        """Refuse hints for a checkpoint where weights are fresh; `fresh` says of what.

        Raises:
            ConfigError: Naming the flag.
        """
        asked = {"--family": self.family, "--heads": self.heads, "--weights": self.weights == "model" or None}
        for flag, value in asked.items():
            if value is not None:
                raise ConfigError(f"{flag} does nothing with {fresh}", hint=f"leave {flag} out")


def parse_layers(text: str, depth: int) -> tuple[int, ...]:
    """Parse a selection of transformer blocks.

    Args:
        text: `0-3`, `0,2,5`, a mix such as `0-3,8`, `all`, `none`, or `auto` (`medcli.presets.auto_layers`).
        depth: Number of blocks of the model.

    Returns:
        Rising block numbers in 0..depth - 1.

    Raises:
        ConfigError: If the text selects no blocks, or blocks the model does not have.
    """
    named = {"all": range(depth), "none": (), "auto": auto_layers(depth)}
    if text in named:
        return tuple(named[text])
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _is_number(first) or (dash and not _is_number(last)) or (dash and int(first) > int(last)):
            raise ConfigError(
                f"--layers {text!r}: {part.strip()!r} names no blocks",
                hint="write it like --layers 0-3, or 0,2,5, all, none or auto",
            )
        top = int(last) if dash else int(first)
        if top >= depth:
            raise ConfigError(
                f"--layers {text!r}: there is no block {top} in a model of {depth} blocks",
                hint=f"blocks are numbered 0-{depth - 1}",
            )
        layers.update(range(int(first), top + 1))
    return tuple(sorted(layers))


def _is_number(text: str) -> bool:
    """Check for plain ASCII digits, few enough to convert: `int` also reads `1_6` and other scripts' digits."""
    return text.isascii() and text.isdecimal() and len(text) < 19

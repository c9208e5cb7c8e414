"""Settings that select and change the network a command works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcli.errors import ConfigError
from medcli.presets import auto_layers


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSource:
    """Checkpoint or preset, hints for what its tensors cannot tell, and changes to the architecture.

    `None` keeps what the checkpoint has. A command uses the fields it has flags for.
    """

    checkpoint: str | Path | None = None
    """Checkpoint file, diffusers folder or preset name; None: the command's default model."""
    family: str | None = None
    """Model family, where neither the file's contents nor its name tells."""
    heads: int | tuple[int, ...] | None = None
    """Number of attention heads, of an EDT those of each stage; needed only if the width matches no preset."""
    weights: str | None = "ema"
    """`ema` or `model`: the weight set of a training checkpoint; None: the averaged set if there is one."""
    mediators: tuple[int, ...] | None = None
    """Mediator ladder: rising perfect squares; empty: none."""
    layers: str | None = None
    """Blocks with mediators as `--layers` takes them (`0-3`, `0,2,5`, `all`, `none`, `auto`); see `parse_layers`."""
    res: int | None = None
    """Image side in pixels."""
    num_classes: int | None = None
    """Number of classes, excluding the null class."""

    def layers_of(self, depth: int) -> tuple[int, ...] | None:
        """Return the selected blocks of a network of `depth` blocks; None if `layers` is not set.

        Raises:
            ConfigError: If the text selects no blocks, or blocks the network does not have.
        """
        return None if self.layers is None else parse_layers(self.layers, depth)


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


def format_layers(layers: tuple[int, ...]) -> str:
    """Format block numbers as `parse_layers` reads them: `0-3`, `0,2,5` or `none`."""
    is_run = len(layers) > 1 and layers == tuple(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if is_run else ",".join(map(str, layers)) or "none"


def _is_number(text: str) -> bool:
    """Check for plain ASCII digits, few enough to convert: `int` also reads `1_6` and other scripts' digits."""
    return text.isascii() and text.isdecimal() and len(text) < 19

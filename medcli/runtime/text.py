"""Text for people: names from outside, such as those of files, escaped; large and measured numbers."""

from __future__ import annotations

import math

UNITS = ("", " K", " M", " G", " T", " P")
"""Suffixes of large numbers."""


def printable(text: str) -> str:
    """Escape what could move the cursor, start a new line or not be encoded, such as odd characters of a file name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def scaled(number: float, spec: str) -> str:
    """Format a number with a suffix.

    Args:
        number: Any finite number.
        spec: Format of the part below 1,000, such as `.2f`.
    """
    power = 0
    while power < len(UNITS) - 1 and abs(float(format(number, spec))) >= 1000:
        number, power = number / 1000, power + 1
    return format(number, spec) + UNITS[power]


def measured(value: float, error: float | None, sign: str = "±") -> str:
    """Format a value with its standard error: two digits of the error, at least two decimals; four digits without."""
    if error is None:
        return f"{value:.4g}"
    decimals = min(6, max(2, 1 - math.floor(math.log10(error)))) if error > 1e-6 else 2
    return f"{value:.{decimals}f} {sign} {error:.{decimals}f}"


def count_text(number: int) -> str:
    """Format a count in three digits: `1,797`, `33.0 M`, `676 M`."""
    return f"{number:,}" if abs(number) < 10_000 else scaled(number, "#.3g").replace(". ", " ")


def size_text(num_bytes: int) -> str:
    """Format a size on disk: `3.1 GB`, `2.5 MB`."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def macs_text(giga: float | None) -> str | None:
    """Format GMACs or GFLOPs with the two decimals that papers print: `118.69 G`, `2.91 T`; None stays None."""
    return None if giga is None else scaled(1e9 * giga, ".2f")

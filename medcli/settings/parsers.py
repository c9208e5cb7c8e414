"""Parse a word of the command line: a number, a path, a mediator count."""

from __future__ import annotations

from pathlib import Path

from medcli.errors import ConfigError

READ_DIGITS = 100
"""Digits that are read at all; a number with more is no slip of the hand."""
MAX_FOLDERS = 256
"""Nested folders of a path; the system's functions recurse into them."""


def parse_int(text: str) -> int:
    """Parse a whole number in plain ASCII digits; `int` also reads `1_6` and digits of other scripts.

    Raises:
        ValueError: If it is none, or too long.
    """
    digits = text.strip()
    plain = digits.removeprefix("-").removeprefix("+")
    if not (plain.isascii() and plain.isdecimal() and len(plain) <= READ_DIGITS):
        raise ValueError(text)
    return int(digits)


def parse_float(text: str) -> float:
    """Parse a number in plain ASCII; `float` also reads `1_0` and digits of other scripts.

    Raises:
        ValueError: If it is none.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return float(text)


def parse_path(text: str) -> Path:
    """Parse a path; `~` is the home directory also where the shell leaves it alone, as in `--output=~/x`.

    Raises:
        ValueError: If it is empty, which would be the current folder.
    """
    if not text.strip() or "\0" in text:
        raise ValueError(text)
    if len(Path(text).parts) > MAX_FOLDERS:
        raise ConfigError(f"a path of {len(Path(text).parts)} folders is too long", hint="use a shorter one")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError as err:  # no home folder, or no such user
        raise ConfigError(f"{text}: {str(err).lower().rstrip('.')}", hint="write the whole path") from err


def parse_count(text: str) -> int:
    """Parse a mediator count; `full` is full attention, 0.

    Raises:
        ValueError: If it is neither.
    """
    return 0 if text.strip() == "full" else parse_int(text)


def parse_ints(text: str) -> tuple[int, ...]:
    """Parse `4,16,64`."""
    return tuple(parse_int(part) for part in text.split(","))

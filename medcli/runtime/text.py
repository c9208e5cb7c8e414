"""Escaping of text from outside, such as file names, for display."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape what could move the cursor, start a new line or not be encoded, such as odd characters of a file name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)

"""Which image numbers have been seen: a byte each, where a set of Python's takes sixty."""

from __future__ import annotations

from collections.abc import Iterator


class NumberSet:
    """A set of whole numbers that lie close together, from 0 on."""

    def __init__(self) -> None:
        self._flags = bytearray()

    def add(self, number: int) -> None:
        """Take a number in; memory grows to the largest."""
        self._flags.extend(bytes(max(0, number + 1 - len(self._flags))))
        self._flags[number] = True

    def __contains__(self, number: int) -> bool:
        return number < len(self._flags) and bool(self._flags[number])

    def __len__(self) -> int:
        return self._flags.count(1)

    def __iter__(self) -> Iterator[int]:
        """The numbers, rising."""
        return (number for number, is_in in enumerate(self._flags) if is_in)

    def count_below(self, limit: int) -> int:
        """How many of the numbers below a limit are in."""
        return self._flags.count(1, 0, limit)

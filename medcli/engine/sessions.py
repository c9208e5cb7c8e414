"""Sessions of a sample folder: the images one process made in one go, and how long it took."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from medcli.engine.image_records import MAX_INDEX, MAX_LINE
from medcli.runtime.json_records import InvalidJson, as_record, parse_json

KEY = "session"
MAX_SECONDS = 1e11
"""Bound on times, 3,000 years, so that their sums are finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A part of a manifest, and the last line of a process's own file."""

    images: int = field(metadata={"min": 0, "max": MAX_INDEX + 1})
    seconds: float = field(metadata={"min": 0, "max": MAX_SECONDS})
    start: float | None = field(default=None, metadata={"min": 0, "max": MAX_SECONDS})
    """Seconds since 1970; None in manifests of earlier versions, whose sessions did not overlap."""

    def to_json(self) -> dict[str, float]:
        """Return it as a manifest holds it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def to_line(self) -> str:
        """Return one JSON object and a line end."""
        return json.dumps({KEY: self.to_json()}) + "\n"


def read_sessions(file: Path) -> list[Session]:
    """Read the sessions among the lines of a process's own file."""
    found = []
    with file.open(encoding="utf-8", errors="replace") as lines:
        while line := lines.readline(MAX_LINE):
            if line.startswith(f'{{"{KEY}"'):
                try:
                    found.append(as_record(Session, parse_json(line, MAX_LINE)[KEY]))
                except InvalidJson:  # torn
                    continue
    return found


def wall_seconds(sessions: Iterable[Session]) -> float:
    """Return the time in which images were made: that of sessions side by side counts once."""
    total, end = 0.0, float("-inf")
    for session in sorted(sessions, key=lambda session: session.start or 0.0):
        if session.start is None:
            total += session.seconds
        else:
            total += max(0.0, session.start + session.seconds - max(end, session.start))
            end = max(end, session.start + session.seconds)
    return total

"""`metrics.jsonl`: one line every so many steps, none twice and none missing however often a run is continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from medcli.runtime.files import write_text


class MetricsLog:
    """The file, as one run after another leaves it.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line; it has a `step`."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut(self, done: int, log_every: int) -> None:
        """Take back what lies beyond the steps that are done, and a line torn by a kill.

        So goes a last line of fewer than `log_every` steps, written where a shorter run ended: the next one holds its
        steps again.
        """
        if not self._path.exists():
            return
        kept = []
        for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                step = json.loads(text)["step"]
                if step < done or (step == done and done % log_every == 0):
                    kept.append(text + "\n")
        write_text(self._path, "".join(kept), force=True)

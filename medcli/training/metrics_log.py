"""Log of a training run, `metrics.jsonl`: means over the steps of each line."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from medcli.runtime.files import require_regular, write_text
from medcli.runtime.json_records import parse_json
from medcli.training.config import TrainConfig
from medcli.training.history import History


class MetricsLog:
    """Log file with a line every `log_every` steps, none missing and none twice however often a run resumes.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path, config: TrainConfig) -> None:
        self._path, self._config = path, config
        self._started, self._trained_before = monotonic(), 0

    def line_before(self, step: int) -> int:
        """Return the step of the log line before a step's own."""
        return (step - 1) // self._config.log_every * self._config.log_every

    def mean(self, name: str, history: History) -> float | None:
        """Return the mean of `loss` or another number of `Row` over the steps of the last line; None without any."""
        mean = history.mean(name, self.line_before(history.done))
        return None if mean is None else round(mean, 6)

    def add(self, history: History, num_trained: int) -> dict[str, Any]:
        """Append the line of the steps since the last one that an uninterrupted run would have written.

        Args:
            history: Steps done and their losses.
            num_trained: Steps this session trained on, for its speed since the last line.
        """
        config, done = self._config, history.done
        seconds, images = monotonic() - self._started, (num_trained - self._trained_before) * config.global_batch_size
        self._restart(num_trained)
        skipped = {bad_step.step for bad_step in history.bad_steps} | set(config.skip_steps)
        names = ("loss", "grad_norm", *(() if config.masking is None else ("full_loss", "masked_loss")))
        line = {
            "step": done,
            **{name: self.mean(name, history) for name in names},
            "images_per_sec": round(images / seconds, 2),
            "skipped": sum(step <= done for step in skipped),
        }
        if history.unreadable:
            line["unreadable_images"] = len(history.unreadable)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return line

    def cut(self, done: int, num_trained: int) -> None:
        """Remove lines beyond the steps done, and a line cut by a kill.

        Also removes a last line of fewer than `log_every` steps, written at the end of a shorter run: the next line
        covers its steps again, unless all steps are done.

        Raises:
            DataError, OSError: If something else than a file is in its place.
        """
        self._restart(num_trained)
        require_regular(self._path)
        try:
            self._path.stat()
        except FileNotFoundError:
            return
        is_whole = done % self._config.log_every == 0 or done >= self._config.steps
        kept = []
        for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                step = parse_json(text, allow_nan=True)["step"]
                if step < done or (step == done and is_whole):
                    kept.append(text + "\n")
        write_text(self._path, "".join(kept), force=True)

    def _restart(self, num_trained: int) -> None:
        """Measure the speed of the next line from here."""
        self._started, self._trained_before = monotonic(), num_trained

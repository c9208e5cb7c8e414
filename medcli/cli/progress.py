"""Progress: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LOG_EVERY_SECS = 10.0
"""Pause between progress lines where no bar can be drawn."""
TEXT_WIDTH = 62
"""Characters kept for the text beside a bar."""


def duration(secs: float) -> str:
    """Write a length of time in words, to about two digits: `45 s`, `3 min 05 s`, `2 h 10 min`, `9 d 2 h`."""
    whole = round(secs)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


class Pace:
    """Rate and remaining time of a stretch of work, counted from its first report on.

    Earlier work of a resumed run does not count.
    """

    def __init__(self, first: float, total: int, unit: str, clock: Callable[[], float]) -> None:
        self._first, self._total, self._unit = first, total, unit
        self._clock, self._start = clock, clock()

    def describe(self, done: float, detail: str = "") -> str:
        """Format time left and rate, or in its place what was measured; without times until both are known."""
        secs = self._clock() - self._start
        if done <= self._first or secs <= 0:
            return detail
        per_sec = (done - self._first) / secs
        rate = f"{per_sec:.1f} {self._unit}/s" if per_sec >= 1 else f"{1 / per_sec:.1f} s per {self._unit.rstrip('s')}"
        return f"{duration((self._total - done) / per_sec)} left, {detail or rate}"


class Bar:
    """A bar that vanishes when the work is done. One line: in a narrow terminal the bar itself is shorter."""

    def __init__(self, console: Console, work: tuple[int, str], first: float, clock: Callable[[], float]) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        total, unit = self.work = work
        self._pace = Pace(first, total, unit, clock)
        text = Column(no_wrap=True, overflow="crop")
        columns = (
            BarColumn(bar_width=min(30, max(4, console.width - TEXT_WIDTH))),
            TextColumn("{task.description}", markup=False, table_column=text),
            TextColumn("{task.fields[pace]}", style="dim", markup=False, table_column=text),
        )
        self._bar: Progress = Progress(*columns, console=console, transient=True)
        self._task: TaskID = self._bar.add_task(self._counted(first), total=total, completed=int(first), pace="")
        self._bar.start()

    def update(self, done: float, detail: str) -> None:
        """Move the bar."""
        self._bar.update(
            self._task, completed=done, description=self._counted(done), pace=self._pace.describe(done, detail)
        )

    def stop(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def _counted(self, done: float) -> str:
        total, unit = self.work
        return f"{int(done)}/{total} {unit}"


class Log:
    """A line every `LOG_EVERY_SECS` where no bar can be drawn."""

    def __init__(self, console: Console, work: tuple[int, str], first: float, clock: Callable[[], float]) -> None:
        total, unit = self.work = work
        self._console, self._clock = console, clock
        self._pace = Pace(first, total, unit, clock)
        self._last = clock()

    def update(self, done: float, detail: str) -> None:
        """Write a line if the last one is old enough."""
        from rich.text import Text

        if self._clock() - self._last < LOG_EVERY_SECS:
            return
        self._last = self._clock()
        total, unit = self.work
        pace = self._pace.describe(done, detail)
        self._console.print(Text(f"{int(done)}/{total} {unit}" + (f", {pace}" if pace else "")), soft_wrap=True)

    def stop(self) -> None:
        """No-op."""

"""Output of a command: results on stdout, everything else on stderr.

Commands never print. They receive an `Output`, hand it to the workflow as its reporter and give it the report at the
end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from medcli.cli.progress import Bar, Log, duration
from medcli.cli.table import FittedTable, details_of
from medcli.cli.text import COMMAND, Prose, padded, wrapped
from medcli.runtime.text import printable as printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

HELD_SECS = 2.0
"""Time after which a line on stderr is not held back."""
ONE_LINE = ("error: ", "hint: ")
"""Labels of lines that are never broken."""


class Report(Protocol):
    """Result of a workflow: values with names fit for JSON."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under stable snake_case keys."""


def one_line(text: str) -> str:
    """Bring a message onto one line of printable characters."""
    return printable(" ".join(text.split()))


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    is_terminal = stream.isatty()
    is_plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")
    return Console(
        file=stream,
        force_terminal=is_terminal,
        color_system="auto" if is_terminal and not is_plain else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


class Output:
    """The streams of one run and how to write to them. A `Reporter` for workflows.

    Args:
        stdout: Receives the result and nothing else.
        stderr: Receives progress, notes, warnings, hints and errors.
        as_json: Write the result as one JSON object instead of for people.
        quiet: Leave only the result and errors; of a result that is a file or a folder, only its path.
        verbose: Show every column and more remarks.
        clock: Seconds from any start, for rates and pauses.
    """

    def __init__(
        self,
        stdout: TextIO,
        stderr: TextIO,
        *,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self.as_json = as_json
        self._quiet = quiet
        self._verbose = verbose
        self._clock, self._started = clock, clock()
        self._errors: Console | None = None
        self._held: list[tuple[str, str, str]] | None = []
        self._held_since = 0.0
        self._progress: Bar | Log | None = None

    @classmethod
    def standard(cls, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> Output:
        """Write to this process's streams, as they are now."""
        return cls(sys.stdout, sys.stderr, as_json=as_json, quiet=quiet, verbose=verbose)

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_progress()
        if kind is None:
            self._release()
            self.detail(f"took {duration(self._clock() - self._started)}")

    def result(self, report: Report, table: RenderableType | None = None) -> None:
        """Show the result: the last thing a command does.

        Args:
            report: Values for `--json`.
            table: What people see (a Rich renderable or text); None lists the report's values.
        """
        self._end_progress()
        self._release()
        if self.as_json:
            self._stdout.write(json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
        elif self._quiet and (path := report.to_json().get("output")):
            self._stdout.write(printable(str(path)) + "\n")
        else:
            self._show(details_of(report.to_json()) if table is None else table)

    def note(self, text: str) -> None:
        """Write one line, unless `--quiet`."""
        self._say("", text, "")

    def warn(self, text: str) -> None:
        """Write one line with the label of a warning, unless `--quiet`."""
        self._say("warning: ", text, "yellow")

    def detail(self, text: str) -> None:
        """Write one line if `--verbose`."""
        if self._verbose:
            self.note(text)

    def hint(self, text: str) -> None:
        """Suggest the next command, unless `--quiet`."""
        self._say("hint: ", text, "dim")

    def error(self, message: str, hint: str | None = None) -> None:
        """Write an error and, if known, the way out: one line each."""
        self._end_progress()
        self._line("error: ", message, "bold red")
        if hint:
            self._line("hint: ", hint, "dim")

    def progress(self, done: float, total: int, unit: str, detail: str = "") -> None:
        """Show progress: a bar on a terminal, else a line every ten seconds or so."""
        if self._quiet:
            return
        self._release()
        if self._progress is not None and self._progress.work != (total, unit):
            self._end_progress()
        if self._progress is None:
            can_draw = self._console().is_terminal and not self._console().is_dumb_terminal
            self._progress = (Bar if can_draw else Log)(self._console(), (total, unit), done, self._clock)
        self._progress.update(done, detail)
        if done >= total:
            self._end_progress()

    def _show(self, table: RenderableType) -> None:
        """Render, then write: Rich itself would end the process when a reader closes the pipe."""
        console = _console(self._stdout)
        with console.capture() as capture:
            # Everything shown breaks its lines itself; Rich would cut those that hold a long path.
            console.print(self._chosen(table), soft_wrap=True)
        lines = (line.rstrip() for line in capture.get().splitlines())
        self._stdout.write("\n".join(lines).strip("\n") + "\n")

    def _chosen(self, table: RenderableType) -> RenderableType:
        """Turn text into sentences, and keep optional columns if `--verbose`."""
        from rich.console import Group

        if isinstance(table, str):
            return Prose(table)
        if isinstance(table, Group):
            return Group(*map(self._chosen, table.renderables))
        return replace(table, optional=()) if self._verbose and isinstance(table, FittedTable) else table

    def _say(self, label: str, text: str, style: str) -> None:
        """Write a line, or hold it back while the command still checks its settings.

        A refusal is then one line and its hint, without earlier remarks. Lines are released by progress, by the
        result, and by a line that comes `HELD_SECS` after the first.
        """
        if self._quiet:
            return
        if self._held is None:
            self._line(label, text, style)
            return
        self._held_since = self._held_since if self._held else self._clock()
        self._held.append((label, text, style))
        if self._clock() - self._held_since >= HELD_SECS:
            self._release()

    def _release(self) -> None:
        held, self._held = self._held, None
        for line in held or ():
            self._line(*line)

    def _line(self, label: str, text: str, style: str) -> None:
        """Write a line. On a terminal no word is cut: remarks are wrapped, errors and commands stay one line."""
        from rich.text import Text

        console = self._console()
        line = label + one_line(text)
        if console.is_terminal and not console.is_dumb_terminal:
            is_one = label in ONE_LINE or COMMAND.search(line)
            line = (
                padded(line, console.width) if is_one else "\n".join(wrapped(line, console.width, breaks_paths=False))
            )
        console.print(Text.assemble((line[: len(label)], style), line[len(label) :]), soft_wrap=True)

    def _console(self) -> Console:
        if self._errors is None:
            self._errors = _console(self._stderr)
        return self._errors

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

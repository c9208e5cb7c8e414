"""Write docs/cli.md, the reference of the commands: `python docs/scripts/cli_page.py`.

The page comes from the commands' signatures and docstrings; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from medcli.cli.app import COMMANDS, app
from medcli.cli.common import COMMON_OPTIONS, CommandFunction, description_of, examples_of
from medcli.errors import ExitCode
from medcli.runtime.files import write_text

PAGE = Path(__file__).resolve().parents[1] / "cli.md"

EXIT_CODE_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.BUG: "a bug in medcli; the traceback is shown",
    ExitCode.USAGE: "wrong usage or an impossible combination of settings",
    ExitCode.CHECKPOINT: "a checkpoint is missing, damaged or of the wrong kind",
    ExitCode.DATA: "images, labels or reference statistics are missing or unusable",
    ExitCode.ENVIRONMENT: "the machine lacks something: a device, memory, disk space, a writable folder",
    ExitCode.CHECK_FAILED: "a check that was asked for did not hold",
    ExitCode.INTERRUPTED: "interrupted with Ctrl-C",
}

HEAD = """# Commands

<!-- Made by `python docs/scripts/cli_page.py`; edit the commands' docstrings and options instead. -->

Results go to stdout, everything else to stderr. An error is one line that says what is wrong and, where there is a way
out, one that names it.
"""


def reference() -> str:
    """Return the page in Markdown."""
    parsed: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    first = parsed[COMMANDS[0].__name__]
    lines = [HEAD, "## Every command", ""]
    lines += [_option_line(param) for param in first.params if param.name in COMMON_OPTIONS]
    lines += ["", "`medcli --version` shows the version; `medcli --install-completion` sets up the shell.", ""]
    lines += ["| Exit code | Meaning |", "| --- | --- |"]
    lines += [f"| {code.value} | {meaning} |" for code, meaning in EXIT_CODE_MEANINGS.items()]
    for command in COMMANDS:
        lines += ["", *_command_lines(command, parsed[command.__name__].params)]
    return "\n".join(lines) + "\n"


def _command_lines(command: CommandFunction, params: list[Any]) -> Iterator[str]:
    """Yield the lines of one command: description, examples, then parameters panel by panel."""
    own = [param for param in params if param.name not in COMMON_OPTIONS]
    arguments = [param for param in own if param.param_type_name == "argument"]
    words = [param.metavar if param.required else f"[{param.metavar}]" for param in arguments]
    yield f"## medcli {command.__name__}\n"
    yield f"{description_of(command)}\n"
    yield f"    {' '.join(['medcli', command.__name__, *words, '[OPTIONS]'])}\n"
    yield "Examples:\n"
    yield from (f"    {line}" for line in examples_of(command))
    if arguments:
        yield ""
        yield from (f"- `{param.metavar}`: {param.help}{_default(param)}" for param in arguments)
    for panel in dict.fromkeys(param.rich_help_panel for param in own if param not in arguments):
        yield f"\n{panel}:\n"
        yield from (_option_line(param) for param in own if param not in arguments and param.rich_help_panel == panel)


def _option_line(param: Any) -> str:
    flags = ", ".join(f"`{flag}`" for flag in (*param.opts, *param.secondary_opts))
    metavar = "" if param.is_flag else f" `{param.metavar}`"
    return f"- {flags}{metavar}: {param.help}{_default(param)}"


def _default(param: Any) -> str:
    shown = param.show_default and param.default is not None and not isinstance(param.default, bool)
    return f" Default: `{param.default}`." if shown else ""


if __name__ == "__main__":
    write_text(PAGE, reference(), force=True)

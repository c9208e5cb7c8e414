"""Write docs/cli.md, the reference of the commands: `python docs/scripts/cli_page.py`.

The page comes from the declarations of commands and settings; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medcli.cli.app import COMMANDS, load_command
from medcli.cli.command import COMMON_OPTIONS, Command
from medcli.errors import ExitCode
from medcli.runtime.files import write_text
from medcli.settings.declare import Setting

PAGE = Path(__file__).resolve().parents[1] / "cli.md"

EXIT_CODE_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.BUG: "a bug in medcli; the traceback is shown",
    ExitCode.USAGE: "wrong usage or an impossible combination of settings",
    ExitCode.CHECKPOINT: "a checkpoint is missing, damaged or of the wrong kind",
    ExitCode.DATA: "images, labels or reference statistics are missing or unusable",
    ExitCode.ENVIRONMENT: "the machine lacks something: a device, a package, memory, disk space, a writable folder",
    ExitCode.CHECK_FAILED: "a check that was asked for did not hold",
    ExitCode.INTERRUPTED: "interrupted with Ctrl-C",
}

HEAD = """# Commands

<!-- Made by `python docs/scripts/cli_page.py`; edit the declarations of settings instead. -->

Results go to stdout, everything else to stderr. An error is one line that says what is wrong and, where there is a way
out, one that names it.
"""


def reference() -> str:
    """Return the page in Markdown."""
    lines = [HEAD, "## Every command", ""]
    lines += [
        # Typer takes the first spelling for a default until the option is used.
        f"- {_flags((option.default, *option.param_decls))}{_metavar(option.metavar)}: {option.help}"
        for _, option in COMMON_OPTIONS
    ]
    lines += ["", "`medcli --version` shows the version; `medcli --install-completion` sets up the shell.", ""]
    lines += ["| Exit code | Meaning |", "| --- | --- |"]
    lines += [f"| {code.value} | {meaning} |" for code, meaning in EXIT_CODE_MEANINGS.items()]
    for name, summary in COMMANDS.items():
        lines += ["", *_command_lines(name, summary, load_command(name))]
    return "\n".join(lines) + "\n"


def _command_lines(name: str, summary: str, command: Command[Any]) -> Iterator[str]:
    """Yield the lines of one command: description, examples, then its settings panel by panel."""
    settings = list(command.settings.values())
    arguments = [made for made in settings if made.positional]
    words = [made.flag if made.required else f"[{made.flag}]" for made in arguments]
    yield f"## medcli {name}\n"
    yield "\n\n".join(part for part in (summary, command.details) if part) + "\n"
    yield f"    {' '.join(['medcli', name, *words, '[OPTIONS]'])}\n"
    yield "Examples:\n"
    yield from (f"    {line}" for line in command.examples)
    if arguments:
        yield ""
        yield from (f"- `{made.flag}`: {_help(made)}" for made in arguments)
    for panel in dict.fromkeys(made.panel for made in settings if not made.positional):
        yield f"\n{panel}:\n"
        for made in settings:
            if not made.positional and made.panel == panel:
                yield f"- {_flags(made.spellings)}{_metavar(made.shown_metavar)}: {_help(made)}"


def _flags(spellings: Iterable[str]) -> str:
    return ", ".join(f"`{flag}`" for flag in spellings)


def _metavar(metavar: str | None) -> str:
    return f" `{metavar}`" if metavar else ""


def _help(made: Setting) -> str:
    return made.help + ("" if made.shown_default is None else f" Default: {made.shown_default}.")


if __name__ == "__main__":
    write_text(PAGE, reference(), force=True)

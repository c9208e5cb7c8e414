"""What every command has: `-h`, `--json`, `--quiet`, `--debug`, an `Output`, and help made from its docstring."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any

import typer

from medcli.cli.options import COMMON
from medcli.cli.output import Output

CommandFunction = Callable[..., None]


def _show_help(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        # With Rich the text is already on the screen and what comes back is empty.
        if text := ctx.get_help():
            typer.echo(text)
        raise typer.Exit


def help_option(panel: str | None) -> Any:
    """Make the `-h/--help` flag: ours, so that it can stand in any panel and is False, not None, when not given.

    Typer turns None into False with pydantic, whose import would be a third of the time help takes.
    """
    text = "Show this message and exit."
    return typer.Option("-h", "--help", is_eager=True, callback=_show_help, help=text, rich_help_panel=panel)


_JSON = typer.Option("--json", help="Write the result as one JSON object.", rich_help_panel=COMMON)
_QUIET = typer.Option("-q", "--quiet", help="Show the result and errors only.", rich_help_panel=COMMON)
_DEBUG = typer.Option("--debug", help="Show tracebacks (or set MEDCLI_DEBUG=1).", rich_help_panel=COMMON)

COMMON_OPTIONS = {"as_json": _JSON, "quiet": _QUIET, "debug": _DEBUG, "help_": help_option(COMMON)}
"""Parameter name and option of the flags each command has. `--debug` is read by the error boundary, in `app.main`."""


def with_common_options(function: CommandFunction) -> CommandFunction:
    """Give a command the common flags and put the `Output` they ask for into its context.

    Args:
        function: A command, `function(ctx, ...)`, that takes its output from `output_of(ctx)`.

    Returns:
        The command as Typer sees it: the same parameters and then the common ones.
    """
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])
        for name, option in COMMON_OPTIONS.items()
    ]

    @functools.wraps(function)
    def command(ctx: typer.Context, **values: Any) -> None:
        flags = {name: values.pop(name) for name in COMMON_OPTIONS}
        with Output.standard(as_json=flags["as_json"], quiet=flags["quiet"]) as output:
            ctx.obj = output
            function(ctx, **values)

    # Typer reads both; `wraps` has set the command's own, which lack the common flags.
    command.__signature__ = signature.replace(parameters=[*own, *common])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *common]}
    return command


def examples_of(function: CommandFunction) -> list[str]:
    """Command lines from the `Examples:` section of a command's docstring."""
    return [line.strip() for line in _sections(function).get("Examples", "").splitlines() if line.strip()]


def description_of(function: CommandFunction) -> str:
    """What a command's docstring says before its first section."""
    return _sections(function)[""].strip()


def help_of(function: CommandFunction) -> str:
    """Help text: what the command makes, then examples one a line."""
    examples = "\n".join(f"  {line}" for line in examples_of(function))
    # \b on a line of its own keeps the lines of that paragraph apart.
    return f"{description_of(function)}\n\n\b\nExamples:\n{examples}"


def _sections(function: CommandFunction) -> dict[str, str]:
    """Split a Google docstring at its section headings; the text before the first stands under the empty name."""
    parts = re.split(r"^(Examples|Args|Returns|Raises):\n", inspect.getdoc(function) or "", flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}

"""A command of the program: a request class, a function, and help. The Typer command is made from them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, get_args

import typer

from medcli.cli.completion import suggestions
from medcli.cli.output import Output
from medcli.errors import ConfigError

if TYPE_CHECKING:
    from medcli.settings.declare import Setting

R = TypeVar("R")

COMMON = "Common"
"""Help panel of the options every command has."""
MARKUP = re.compile(r"\[(?=[a-z/@#])")
"""Bracket in a help text that Rich would take for the start of a tag."""
GIVEN = "COMMANDLINE"
"""Name of the parameter source that is the command line."""


@dataclass(frozen=True, slots=True)
class Command(Generic[R]):
    """A command. Its summary is in the program's table, so that the program's help imports no command."""

    request: type[R]
    """Frozen dataclass of settings: its flags."""
    run: Callable[[R, Output], None]
    examples: tuple[str, ...]
    """Two or three command lines that run as pasted."""
    details: str = ""
    """Paragraph under the summary."""

    @property
    def settings(self) -> dict[str, Setting]:
        """Its settings by key, arguments first, then panel by panel."""
        from medcli.settings.declare import PANELS, settings_of

        order = {panel: place for place, panel in enumerate(PANELS)}
        request: Any = self.request
        declared = settings_of(request)
        return dict(
            sorted(declared.items(), key=lambda item: -1 if item[1].positional else order.get(item[1].panel, 0))
        )

    def help_text(self, summary: str) -> str:
        """Join summary, details and examples."""
        examples = "\n".join(f"  {line}" for line in self.examples)
        # \b on a line of its own keeps the lines of that paragraph apart.
        return "\n\n".join(
            part for part in (summary, self.details.replace("\n", " "), f"\b\nExamples:\n{examples}") if part
        )


def help_option(panel: str | None, *names: str, show: Callable[..., None], text: str) -> Any:
    """Make a flag that shows a help text and exits.

    It is False, not None, when not given: Typer turns None into False with pydantic, whose import would be a third of
    the time help takes.
    """
    return typer.Option(*names, is_eager=True, callback=show, help=text, rich_help_panel=panel)


def show_help(ctx: typer.Context, wanted: bool) -> None:
    """Show the short help and exit."""
    _show(ctx, wanted, every=False)


def _show_all(ctx: typer.Context, wanted: bool) -> None:
    _show(ctx, wanted, every=True)


def _show(ctx: typer.Context, wanted: bool, *, every: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    settings: Mapping[str, Setting] = getattr(ctx.command.callback, "settings", {})
    more = 0
    for param in ctx.command.params:
        hide_type(param)
        made = settings.get(str(param.name))
        if made is None:
            continue
        param.required = made.required
        if not (made.short or made.positional or every):
            param.hidden = True  # type: ignore[attr-defined]  # Typer's own parameters have it
            more += 1
    # With Rich the text is already on the screen and what comes back is empty.
    if text := ctx.get_help():
        typer.echo(text)
    if more:
        typer.echo(f" {more} more options: {ctx.command_path} --help-all\n")
    raise typer.Exit


def hide_type(param: Any) -> None:
    """Leave Typer's names of types out of the help, where a flag's or argument's placeholder says more."""
    if getattr(param, "is_flag", False):
        param.metavar = ""
    elif "|" in (param.metavar or ""):
        param.metavar = param.metavar.replace("|", " | ")  # lines break between choices, not in them
    elif param.param_type_name == "argument":
        param.display_type_rich = lambda ctx: ""


_SHORT = "Show this message and exit."
_PANEL: dict[str, Any] = {"rich_help_panel": COMMON}
_COMMON: dict[str, tuple[type, Any]] = {
    "config_file": (
        str,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings from TOML, or from the config.json or manifest.json of an earlier run; flags win.",
            **_PANEL,
        ),
    ),
    "as_json": (bool, typer.Option("--json", help="Write the result as one JSON object.", **_PANEL)),
    "quiet": (
        bool,
        typer.Option("-q", "--quiet", help="Show errors and the result only: its path, if it is one.", **_PANEL),
    ),
    "verbose": (bool, typer.Option("-v", "--verbose", help="Show every column, the settings and the time.", **_PANEL)),
    "debug": (bool, typer.Option("--debug", help="Show tracebacks (or set MEDCLI_DEBUG=1).", **_PANEL)),
    "help_": (bool, help_option(COMMON, "-h", "--help", show=show_help, text=_SHORT)),
    "help_all": (bool, help_option(COMMON, "--help-all", show=_show_all, text="Show every option and exit.")),
}
"""Parameter name, type and option of the flags each command has. `--debug` is read by the error boundary."""
COMMON_OPTIONS = tuple(_COMMON.values())


def typer_function(command: Command[Any]) -> Callable[..., None]:
    """Make the function that Typer registers: its signature holds the settings and the common flags."""
    settings = command.settings

    def function(ctx: typer.Context, **values: Any) -> None:
        flags = {name: values.pop(name) for name in _COMMON}
        given = {
            key: value for key, value in values.items() if getattr(ctx.get_parameter_source(key), "name", "") == GIVEN
        }
        name = str(ctx.info_name)
        request, filed = _request(command, given, flags["config_file"], name)
        if flags["quiet"] and flags["verbose"]:
            raise ConfigError("--quiet excludes --verbose", hint="leave one of them out")
        output = Output.standard(**{key: flags[key] for key in ("as_json", "quiet", "verbose")})
        with output, _named_in(flags["config_file"], filed):
            if flags["verbose"]:
                output.detail(f"settings: {_every_setting(name, request)}")
            command.run(request, output)

    own = [_parameter(key, *_option(made)) for key, made in settings.items()]
    common = [_parameter(name, kind, option) for name, (kind, option) in _COMMON.items()]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    # Typer reads both.
    function.__signature__ = inspect.Signature([context, *own, *common])  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in [context, *own, *common]}
    function.settings = settings  # type: ignore[attr-defined]  # for the help
    return function


@contextmanager
def _named_in(config_file: str | None, flags: Sequence[str]) -> Iterator[None]:
    """Say in errors about these flags that their values are from the configuration file."""
    try:
        yield
    except ConfigError as err:
        if named := [flag for flag in flags if re.search(rf"(?<![\w-]){flag}(?![\w-])", err.message)]:
            err.message += f" ({' and '.join(named)} from {config_file})"
        raise


def _request(
    command: Command[Any], given: Mapping[str, Any], config_file: str | None, name: str
) -> tuple[Any, tuple[str, ...]]:
    """Build the request from the flags and the configuration file; flags win. Also return the flags the file sets."""
    from medcli.settings.build import build
    from medcli.settings.parsers import parse_path
    from medcli.settings.values import parse_pairs, parse_text

    settings = command.settings
    parsed: dict[str, Any] = {}
    filed: tuple[str, ...] = ()
    for key, value in given.items():
        made = settings[key]
        if made.is_switch:
            parsed[key] = value
        elif made.is_list:
            parsed[key] = _parse_many(made, value) if made.positional else parse_pairs(made, value)
        else:
            parsed[key] = parse_text(made, value)
    if config_file is not None:
        from medcli.settings.config_file import read_settings
        from medcli.settings.records import RECORDS

        try:
            path = parse_path(config_file)
        except ValueError as err:
            raise ConfigError("--config is empty", hint="name a TOML or JSON file") from err
        found = read_settings(path, settings, RECORDS, name)
        filed = tuple(settings[key].flag for key in found if key not in parsed and not settings[key].positional)
        parsed = {**found, **parsed}
    try:
        with _named_in(config_file, filed):
            return build(command.request, parsed), filed
    except ConfigError as err:
        raise err if err.hint else ConfigError(err.message, hint=f"see medcli {name} --help") from err


def _every_setting(name: str, request: Any) -> str:
    """Write the command line with every setting that has a value and an effect."""
    from medcli.settings.build import command_line, effective_values
    from medcli.settings.declare import settings_of

    declared = settings_of(type(request))
    values = {
        key: value
        for key, value in effective_values(request).items()
        if value not in (None, (), {}) and (value is not False or declared[key].negatable)
    }
    first = dict(sorted(values.items(), key=lambda item: not declared[item[0]].positional))
    return command_line(name, type(request), first)


def _parse_many(made: Setting, texts: list[str]) -> tuple[Any, ...]:
    """Parse the words of a repeated argument."""
    from dataclasses import replace

    from medcli.settings.values import parse_text

    element = replace(made, type=get_args(made.types[0])[0])
    return tuple(parse_text(element, text) for text in texts)


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    default = False if kind is bool else None
    annotation: Any = Annotated[kind if kind is bool else kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(made: Setting) -> tuple[Any, Any]:
    """Return the type Typer reads, text but for switches, and the option or argument."""
    default = made.shown_default
    text = made.help if default is None else f"{made.help} Default: {default}."
    text = MARKUP.sub(r"\\[", text)
    if made.positional:
        kind: Any = list[str] if made.is_list else str
        return kind, typer.Argument(
            metavar=made.metavar,
            help=text,
            show_default=False,
            autocompletion=lambda incomplete: suggestions(made, incomplete),
        )
    flag = f"{made.flag}/--no-{made.flag.removeprefix('--')}" if made.negatable else made.flag
    names = (made.letter, flag) if made.letter else (flag,)
    if made.is_switch:
        return bool, typer.Option(*names, help=text, rich_help_panel=made.panel, show_default=False)
    option = typer.Option(
        *names,
        metavar=made.shown_metavar,
        help=text,
        rich_help_panel=made.panel,
        show_default=False,
        autocompletion=lambda incomplete: suggestions(made, incomplete),
    )
    return (list[str] if made.is_list else str), option

"""The program: its commands, and the one place where errors become messages and exit codes.

A command module holds a plain function `name(ctx: typer.Context, ...)`. Its docstring says in the first line what it
makes and lists two or three command lines under `Examples:`; help and docs/cli.md are made from it. It imports its
workflow inside the function, so that help loads no torch.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from medcli.cli.analyze import analyze
from medcli.cli.bench import bench
from medcli.cli.common import CommandFunction, help_of, help_option, with_common_options
from medcli.cli.convert import convert
from medcli.cli.demo import demo
from medcli.cli.doctor import doctor
from medcli.cli.fid import fid
from medcli.cli.finetune import finetune
from medcli.cli.flops import flops
from medcli.cli.inspect import inspect
from medcli.cli.latents import latents
from medcli.cli.output import Output
from medcli.cli.problems import problem_of
from medcli.cli.report import report
from medcli.cli.sample import sample
from medcli.cli.speaker import is_said_elsewhere
from medcli.cli.tune import tune
from medcli.errors import ConfigError, ExitCode
from medcli.runtime.processes import this_process
from medcli.version import __version__

COMMANDS: tuple[CommandFunction, ...] = (
    convert,
    inspect,
    latents,
    finetune,
    analyze,
    tune,
    sample,
    flops,
    bench,
    fid,
    report,
    demo,
    doctor,
)
"""Every command, in the order of the work, which is the order help shows."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medcli {__version__}")
        raise typer.Exit


def _bare_program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
    help_: Annotated[bool, help_option(None)] = False,
) -> None:
    """Hold the options of the program without a command."""


def build_app(commands: Sequence[CommandFunction]) -> typer.Typer:
    """Make the program of these commands, each with the common flags and help from its docstring."""
    made = typer.Typer(
        name="medcli",
        help="Attention mediators for diffusion transformers: convert, fine-tune, sample, count and score.",
        add_help_option=False,
        callback=_bare_program,
    )
    for command in commands:
        made.command(help=help_of(command), add_help_option=False)(with_common_options(command))
    return made


app = build_app(COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and tell the user what went wrong.

    Args:
        argv: Words after the program's name; None takes this process's.

    Returns:
        The exit code, as in `medcli.errors.ExitCode`.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run_command(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has what it wanted, as in `medcli flops | head`: a result is written when the work is done.
        _drop_stdout()
        return ExitCode.DONE
    except SystemExit as stop:
        # Rich, which writes the help, leaves this way when a reader closes the pipe.
        if isinstance(stop.__context__, BrokenPipeError):
            return ExitCode.DONE
        raise
    except (Exception, KeyboardInterrupt) as err:
        problem = problem_of(err, command=_named_command(args) or "")
        process = this_process()
        if is_said_elsewhere(problem, process):
            return problem.exit_code
        if problem.exit_code == ExitCode.BUG or _wants_traceback(args):
            traceback.print_exception(err)
        where = "" if process.is_first else f"process {process.rank}: "
        Output.standard().error(f"{where}{problem.message}", problem.hint)
        return problem.exit_code
    return code


def run() -> None:
    """Be the `medcli` executable."""
    # A polite request to stop, as from a batch system, is answered like Ctrl-C: temporary files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())


def _run_command(args: list[str]) -> int:
    """Parse and run, letting every exception out: Typer's own runner would print and exit."""
    if "_MEDCLI_COMPLETE" in os.environ:  # a shell asks for completions; this call ends the process
        app(prog_name="medcli")
    _check_command(args)
    program = typer.main.get_command(app)
    for flag in program.params:
        flag.default = bool(flag.default)  # Typer's completion flags start as None; see help_option
    try:
        with program.make_context("medcli", list(args) or ["--help"]) as ctx:  # a list of its own: parsing empties it
            program.invoke(ctx)
    except typer.Exit as stop:
        return stop.exit_code if args else ExitCode.USAGE
    return ExitCode.DONE


def _named_command(args: list[str]) -> str | None:
    """Find the command's name: the first word that is no option, for no option of the bare program takes a value."""
    return next((word for word in args if not word.startswith("-")), None)


def _check_command(args: list[str]) -> None:
    """Refuse an unknown command, naming the nearest known one."""
    names = [command.__name__ for command in COMMANDS]
    given = _named_command(args)
    if given is not None and given not in names:
        near = difflib.get_close_matches(given, names, n=1)
        hint = f"did you mean medcli {near[0]}?" if near else f"commands: {', '.join(names)}"
        raise ConfigError(f"unknown command {given!r}", hint=hint)


def _wants_traceback(args: list[str]) -> bool:
    return "--debug" in args or os.environ.get("MEDCLI_DEBUG", "") not in ("", "0")


def _drop_stdout() -> None:
    """Send what is still buffered nowhere, so that the flush at exit does not fail again."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())

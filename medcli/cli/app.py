"""The program: its commands, and the one place where errors become messages and exit codes.

A command's module is imported when it is called. It holds `COMMAND`: a request class whose fields declare the flags,
a function and examples; its summary is in `COMMANDS`. Help and docs/cli.md are made from them. The function imports
its workflow inside, so that help loads no torch.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from medcli.cli.command import Command, help_option, show_help, typer_function
from medcli.cli.errors import is_reported_elsewhere, problem_of
from medcli.cli.interrupt import answer_interrupts
from medcli.cli.output import Output
from medcli.errors import ConfigError, ExitCode
from medcli.runtime.processes import this_process
from medcli.version import __version__

COMMANDS: Mapping[str, str] = {
    "convert": "Give a DiT or SiT checkpoint a ladder of mediator counts, or another resolution or layout.",
    "inspect": "Describe a checkpoint: family, size, resolution, mediators, cost.",
    "latents": "Encode a data set once, so that fine-tuning reads latents instead of images.",
    "finetune": "Train a checkpoint further, all mediator counts in one run, or a preset from scratch.",
    "analyze": "Measure how redundant attention is, layer by layer, and when thresholds would trigger.",
    "tune": "Find the best pictures for a budget: network calls, networks by progress, guidance; writes a plan file.",
    "sample": "Generate images; each image moves to more mediator tokens as its per-step change falls.",
    "merge": "Join sample folders of one run, such as the shards of a job array.",
    "flops": "Count multiply-adds with full attention and with mediators, of a forward pass and of a whole image.",
    "bench": "Time network calls with each mediator count against full attention, and sampling.",
    "fid": "Score images against a reference: FID, sFID, Inception Score, precision, recall, KID, with errors.",
    "report": "Write one HTML page of runs: images, switch steps, cost, scores, redundancy, commands and hashes.",
    "demo": "Compare dense, static and dynamic attention on the bundled model, minutes on a CPU.",
    "doctor": "Check this machine; list what is missing and what that disables.",
}
"""Name and summary of every command, in the order of the work. Its module under `medcli.cli` holds `COMMAND`."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medcli {__version__}")
        raise typer.Exit


def _bare_program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
    help_: Annotated[
        bool, help_option(None, "-h", "--help", show=show_help, text="Show this message and exit.")
    ] = False,
) -> None:
    """Hold the options of the program without a command."""


def load_command(name: str) -> Command[Any]:
    """Import one command."""
    module = import_module(f"medcli.cli.{name}")
    found: Command[Any] = module.COMMAND
    return found


def build_app(commands: Mapping[str, Command[Any] | None]) -> typer.Typer:
    """Build the Typer program.

    Args:
        commands: By name; None for one that is listed only, with its summary.
    """
    program = typer.Typer(
        name="medcli",
        help="Attention mediators for diffusion transformers: convert, fine-tune, sample, count and score.",
        add_help_option=False,
        callback=_bare_program,
    )
    for name, command in commands.items():
        text = COMMANDS[name] if command is None else command.help_text(COMMANDS[name])
        register = program.command(name, help=text, add_help_option=False)
        register(_listed_only if command is None else typer_function(command))
    return program


def _listed_only() -> None:
    """Placeholder of a command that is only listed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; report errors with a hint and an exit code.

    Args:
        argv: Words after the program's name; None takes this process's.

    Returns:
        The exit code, as in `medcli.errors.ExitCode`.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        _open_closed_streams()
        code = _run_command(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe, as in `medcli flops | head`: a result is written when the work is done.
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
        if is_reported_elsewhere(problem, process):
            return problem.exit_code
        if problem.exit_code == ExitCode.BUG or _wants_traceback(args):
            traceback.print_exception(err)
        where = "" if process.is_first else f"process {process.rank}: "
        Output.standard().error(f"{where}{problem.message}", problem.hint)
        if isinstance(err, OSError):
            _drop_stdout()
        return problem.exit_code
    return code


def run() -> None:
    """Run the program as this process."""
    code = ExitCode.INTERRUPTED.value
    try:
        # A polite request to stop, as from a batch system, is answered like Ctrl-C: temporary files are removed.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        answer_interrupts()
        code = main()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:  # between two lines of this function
        Output.standard().error("interrupted")
    sys.exit(code)


def _run_command(args: list[str]) -> int:
    """Parse and run, letting every exception out: Typer's own runner would print and exit."""
    if "_MEDCLI_COMPLETE" in os.environ:  # a shell asks for completions; this call ends the process
        build_app({name: load_command(name) for name in COMMANDS})(prog_name="medcli")
    name = _named_command(args)
    app = build_app(dict.fromkeys(COMMANDS) if name is None else {_known(name): load_command(name)})
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


def _known(name: str) -> str:
    """Refuse an unknown command, naming the nearest known one."""
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean medcli {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command {name!r}", hint=hint)
    return name


def _wants_traceback(args: list[str]) -> bool:
    return "--debug" in args or os.environ.get("MEDCLI_DEBUG", "") not in ("", "0")


def _drop_stdout() -> None:
    """Send what is still buffered nowhere, so that the flush at exit does not fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Open the null device where the caller closed a standard stream, so that no file of ours gets its number."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
        sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115  open as long as the process
        sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115

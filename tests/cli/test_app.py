"""The error boundary and the common flags, seen as a user sees them, with commands made for the purpose."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import typer

from medcli.cli import app as app_module
from medcli.cli.command import Command
from medcli.cli.errors import problem_of
from medcli.cli.output import Output
from medcli.errors import CheckFailed, CheckpointError, ConfigError, DataError, EnvironmentProblem, MedcliError
from medcli.settings.declare import setting
from medcli.version import __version__
from tests.conftest import RunCli

Use = Callable[[Callable[[], None]], None]


class ToyReport:
    """A result with a path that Rich would read as markup."""

    def to_json(self) -> dict[str, Any]:
        return {"output": "/data/[run1]/x.pt", "num_images": 4}


@dataclass(frozen=True, kw_only=True)
class ToyRequest:
    """One setting."""

    steps: int = setting(5, help="Steps.", panel="Sampling", minimum=1, maximum=100, metavar="N", short=True)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Put a program of one command, `toy`, in the place of the real one: `use(work)` makes it do `work`."""

    def install(work: Callable[[], None]) -> None:
        def toy(request: ToyRequest, output: Output) -> None:
            output.progress(1, 2, "toys")
            output.note("half way")
            work()
            output.result(ToyReport())
            output.hint("medcli toy --steps 3")

        command = Command(request=ToyRequest, run=toy, examples=("medcli toy", "medcli toy --steps 3"))
        monkeypatch.setattr(app_module, "COMMANDS", {"toy": "Make a toy."})
        monkeypatch.setattr(app_module, "load_command", lambda name: command)

    return install


def raiser(error: BaseException) -> Callable[[], None]:
    """Make work that fails with this error."""

    def work() -> None:
        raise error

    return work


def nothing() -> None:
    """Work that succeeds."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("no good", hint="do better"), 2),
        (CheckpointError("no good", hint="do better"), 3),
        (DataError("no good", hint="do better"), 4),
        (EnvironmentProblem("no good", hint="do better"), 5),
        (CheckFailed("no good", hint="do better"), 6),
    ],
)
def test_each_kind_of_problem_is_two_lines_and_its_exit_code(
    use: Use, run_cli: RunCli, error: MedcliError, code: int
) -> None:
    use(raiser(error))
    result = run_cli("toy", "-q")
    assert (result.code, result.out) == (code, "")
    assert result.err == "error: no good\nhint: do better\n"


def test_a_message_of_several_lines_is_shown_on_one_with_odd_characters_escaped(use: Use, run_cli: RunCli) -> None:
    use(raiser(DataError("a\nb \x1b[31m[red]/[/x]" + "y" * 200)))
    assert run_cli("toy", "-q").err == "error: a b \\x1b[31m[red]/[/x]" + "y" * 200 + "\n"


def test_in_json_mode_stdout_stays_empty_when_the_command_fails(use: Use, run_cli: RunCli) -> None:
    use(raiser(DataError("no images")))
    result = run_cli("toy", "--json")
    assert result.out == ""
    assert result.err.endswith("error: no images\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/out/x"), "error: no space left on device: /out/x"),
        (OSError(errno.EROFS, "Read-only file system"), "error: read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), "error: permission denied: /out"),
        (MemoryError(), "error: out of memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "error: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "error: out of memory"),
    ],
)
def test_what_the_machine_lacks_exits_5_with_a_way_out(
    use: Use, run_cli: RunCli, error: BaseException, said: str
) -> None:
    use(raiser(error))
    result = run_cli("toy", "-q")
    assert result.code == 5
    lines = result.err.splitlines()
    assert lines[0] == said
    assert len(lines) == 2
    assert lines[1].startswith("hint: ")


def test_training_that_lacks_memory_is_told_of_its_own_options() -> None:
    hint = problem_of(MemoryError(), command="finetune").hint
    assert hint is not None
    assert "--micro-batch-size" in hint


@pytest.mark.parametrize("number", [errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ESTALE, errno.EIO])
def test_a_failure_of_the_file_system_names_the_path_and_is_no_bug(number: int) -> None:
    problem = problem_of(OSError(number, os.strerror(number), "run/metrics.jsonl"))
    assert isinstance(problem, EnvironmentProblem)
    assert "run/metrics.jsonl" in problem.message
    assert isinstance(problem_of(OSError("no number")), MedcliError)
    assert problem_of(OSError("no number")).exit_code == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupted_run_exits_130_without_a_traceback(use: Use, run_cli: RunCli, error: BaseException) -> None:
    use(raiser(error))
    result = run_cli("toy", "-q")
    assert result.code == 130
    assert result.err.startswith("error: interrupted\nhint: ")
    assert len(result.err.splitlines()) == 2


def test_an_interrupted_command_that_resumes_names_what_is_kept() -> None:
    assert "finished images are kept" in str(problem_of(KeyboardInterrupt(), command="sample").hint)
    assert problem_of(KeyboardInterrupt("step 3 is saved"), command="finetune").hint == "step 3 is saved"


def test_a_bug_shows_its_traceback_and_where_to_report_it(use: Use, run_cli: RunCli) -> None:
    use(raiser(ZeroDivisionError("a surprise")))
    result = run_cli("toy")
    assert result.code == 1
    assert "Traceback" in result.err
    assert "error: unexpected ZeroDivisionError: a surprise\nhint: this is a bug" in result.err


def test_debug_shows_the_traceback_of_a_users_mistake_too(
    use: Use, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(raiser(ConfigError("no good")))
    assert "Traceback" not in run_cli("toy").err
    assert "Traceback" in run_cli("toy", "--debug").err
    monkeypatch.setenv("MEDCLI_DEBUG", "1")
    assert "Traceback" in run_cli("toy").err
    monkeypatch.setenv("MEDCLI_DEBUG", "0")
    assert "Traceback" not in run_cli("toy").err


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["toi"], "unknown command 'toi'", "did you mean medcli toy?"),
        (["zzz"], "unknown command 'zzz'", "commands: toy"),
        (["toy", "--stepz", "3"], "no such option: --stepz", "did you mean --steps?"),
        (["toy", "--zzz"], "no such option: --zzz", "see medcli toy --help"),
        (["--zzz"], "no such option: --zzz", "see medcli --help"),
        (["toy", "extra"], "got unexpected extra argument", "see medcli toy --help"),
        (["toy", "--steps"], "option '--steps' requires an argument", "see medcli toy --help"),
        (["toy", "--steps", "0"], "--steps must be at least 1, got 0", "write it like --steps 5"),
        (["toy", "--steps", "x", "--json"], "--steps 'x' is not a whole number", "write it like --steps 5"),
    ],
)
def test_wrong_usage_exits_2_with_two_lines(
    use: Use, run_cli: RunCli, words: list[str], message: str, hint: str
) -> None:
    use(nothing)
    result = run_cli(*words)
    assert (result.code, result.out) == (2, "")
    first, second = result.err.splitlines()
    assert first.startswith(f"error: {message}")
    assert second == f"hint: {hint}"


def test_a_missing_argument_is_named(run_cli: RunCli) -> None:
    result = run_cli("inspect")
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: missing argument 'FILE'\nhint: see medcli inspect --help\n"


def test_a_word_that_is_no_choice_is_refused_with_those_there_are(run_cli: RunCli) -> None:
    result = run_cli("convert", "x.pt", "--weights", "best")
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: --weights 'best': expected one of ema, model\nhint: write it like --weights ema\n"


def test_json_writes_one_object_and_nothing_else_to_stdout(use: Use, run_cli: RunCli) -> None:
    use(nothing)
    result = run_cli("toy", "--json")
    assert result.code == 0
    assert json.loads(result.out) == ToyReport().to_json()
    assert "half way" in result.err


def test_quiet_leaves_the_result_alone(use: Use, run_cli: RunCli) -> None:
    use(nothing)
    loud, quiet = run_cli("toy"), run_cli("toy", "--quiet")
    assert loud.err.splitlines() == ["half way", "hint: medcli toy --steps 3"]
    assert quiet.err == ""
    assert quiet.out == "/data/[run1]/x.pt\n", "the path alone, for a script"
    assert "/data/[run1]/x.pt" in loud.out


def test_verbose_shows_the_settings_and_the_time_and_excludes_quiet(use: Use, run_cli: RunCli) -> None:
    use(nothing)
    lines = run_cli("toy", "-v").err.splitlines()
    assert lines[0] == "settings: medcli toy --steps 5"
    assert lines[-1] == "took 0 s"
    refused = run_cli("toy", "-q", "--verbose")
    assert refused.code == 2
    assert refused.err.splitlines()[0] == "error: --quiet excludes --verbose"


def test_the_version_and_the_help_of_the_bare_program(use: Use, run_cli: RunCli) -> None:
    use(nothing)
    assert run_cli("--version").out == f"medcli {__version__}\n"
    assert run_cli("-h").out == run_cli("--help").out
    assert run_cli("-h").code == 0
    bare = run_cli()
    assert (bare.code, bare.out) == (2, run_cli("-h").out)


def test_a_commands_help_says_what_it_makes_and_lists_its_examples_and_the_common_flags(
    use: Use, run_cli: RunCli
) -> None:
    use(nothing)
    result = run_cli("toy", "-h")
    assert result.code == 0
    assert result.out == run_cli("toy", "--help").out
    lines = [line.strip() for line in result.out.splitlines() if line.strip()]
    assert lines[1] == "Make a toy."
    assert lines[2:5] == ["Examples:", "medcli toy", "medcli toy --steps 3"]
    for flag in ("--json", "--quiet", "-q", "--debug", "--help", "-h"):
        assert flag in result.out
    assert "\x1b" not in result.out


@pytest.mark.parametrize("flags", [[], ["--json"], ["--help"]], ids=["human", "json", "help"])
@pytest.mark.parametrize("size", ["1", "200000"])
def test_a_reader_that_closes_the_pipe_early_is_no_error(size: str, flags: list[str]) -> None:
    program = (
        "import sys; from dataclasses import dataclass; from medcli.cli import app as a\n"
        "from medcli.cli.command import Command\n"
        "class R:\n    def to_json(self): return {'x': 'y' * int(sys.argv[1])}\n"
        "@dataclass\nclass Q: pass\n"
        "toy = Command(request=Q, run=lambda request, out: out.result(R()), examples=('x',))\n"
        "a.COMMANDS = {'toy': 'Make.'}; a.load_command = lambda name: toy; sys.exit(a.main(sys.argv[2:]))\n"
    )
    command = [sys.executable, "-c", program, size, "toy", *flags]
    # With the reading end closed before the program starts every write fails: a long one at once, a short one when
    # it is flushed.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, env=buffered, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_request_to_stop_is_answered_like_ctrl_c() -> None:
    """In a process of its own: pytest has handlers too."""
    stop = "app._run_command = lambda args: os.kill(os.getpid(), signal.SIGTERM)"
    code = f"import os, signal; from medcli.cli import app; {stop}; app.run()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]

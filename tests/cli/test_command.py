"""What holds for the settings of every command: help, configuration files, flags without effect."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medcli.cli import app as app_module
from medcli.cli.app import COMMANDS, load_command, main
from medcli.cli.command import Command
from medcli.errors import ConfigError, ExitCode
from medcli.settings.build import build, command_line, given_in, settings_to_json
from medcli.settings.config_file import read_settings
from medcli.settings.declare import Needs, Setting, group, setting, settings_of
from tests.conftest import RunCli

LOADED = {name: load_command(name) for name in COMMANDS}
each_command = pytest.mark.parametrize("name", COMMANDS)
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "mediators": st.just((4, 16)),
    "classes": st.just((1, 2)),
    "amm": st.just("auto") | st.floats(0, 9),
    "mask_ratios": st.just(((0.4, 0.5), (0.1, 0.2))),
    "mask_mid": st.just("none") | st.just((0.15, 0.25)),
    "resume": st.sampled_from(["auto", "never", "runs/x/state.safetensors"]),
    "metrics": st.just(("fid", "is")),
    "at": st.just((0.3, 0.6)),
    "shard": st.sampled_from(["0/4", "3/8"]),
    "lr_decay": st.sampled_from(["none", "cosine", (5e-5, 400)]),
}
"""Values of settings whose text has a form of its own."""
WORD = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8).map("x".__add__)


def values_for(made: Setting) -> st.SearchStrategy[Any]:
    """Generate valid values of a setting from its declaration."""
    if made.key in SPECIAL:
        return SPECIAL[made.key]
    if made.choices:
        return st.sampled_from(made.choices)
    kind = made.types[0]
    if kind is bool:
        return st.booleans() if made.negatable else st.just(True)
    if get_origin(kind) is tuple:
        parts = [values_for(replace(made, type=part, key="")) for part in get_args(kind) if part is not ...]
        return st.tuples(*parts)
    if kind is int:
        return st.integers(int(made.minimum or 0), int(min(made.maximum or 10**6, 10**6)))
    if kind is float:
        low = made.above if made.above is not None else made.minimum
        high = made.maximum if made.maximum is not None else made.below
        return st.floats(low or 0, high or 100, exclude_min=made.above is not None, exclude_max=made.below is not None)
    if kind in (str, Path):
        return WORD.map(kind)
    return st.dictionaries(st.integers(1, 99), WORD.map(Path), min_size=1, max_size=2)


def some_settings(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Generate a valid choice of a command's settings."""
    declared = LOADED[name].settings
    required = {key: values_for(made) for key, made in declared.items() if made.required}
    others = {key: values_for(made) for key, made in declared.items() if not made.required}
    chosen = st.sets(st.sampled_from(sorted(others)), max_size=6) if others else st.just(set())
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({**required, **{key: others[key] for key in keys}}))


def without_idle(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Drop settings that others leave without effect."""
    kept = dict(values)
    while True:
        try:
            build(LOADED[name].request, kept)
            return kept
        except ConfigError as err:
            settings_ = LOADED[name].settings
            idle = [key for key in kept if err.message.startswith(f"{settings_[key].flag} does nothing")]
            if not idle:
                return {}
            del kept[idle[0]]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the requests that commands receive, instead of running them."""
    seen: list[Any] = []

    def capture(name: str) -> Command[Any]:
        return replace(LOADED[name], run=lambda request, out: seen.append(request))

    monkeypatch.setattr(app_module, "load_command", capture)
    return seen


@each_command
def test_the_short_help_has_few_options_and_the_long_one_all(name: str, run_cli: RunCli) -> None:
    declared = [made for made in LOADED[name].settings.values() if not made.positional]
    short, long = run_cli(name, "-h"), run_cli(name, "--help-all")
    assert (short.code, long.code) == (0, 0)
    shown = {made.flag for made in declared if re.search(rf"│ {made.flag}\s", short.out, re.MULTILINE)}
    assert shown == {made.flag for made in declared if made.short}
    assert len(shown) <= 15
    assert len(declared) == 0 or shown
    for made in declared:
        assert re.search(rf"│ {made.flag}\s", long.out, re.MULTILINE), made.flag
    assert ("more options" in short.out) == (len(shown) < len(declared))


@each_command
def test_every_setting_has_a_help_sentence_and_a_default_or_its_origin(name: str) -> None:
    for made in LOADED[name].settings.values():
        assert made.help[0].isupper() or made.help[0].islower()
        assert made.help.endswith(".")
        is_optional = made.types == (bool,) or made.required or made.default_text == ""
        assert made.shown_default or is_optional, made.key


@each_command
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_settings_written_to_a_file_and_fed_back_give_the_same_request(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    command = LOADED[name]
    values = without_idle(name, data.draw(some_settings(name)))
    request = build(command.request, values)
    plain = settings_to_json(given_in(request), command.request)
    (tmp_path / "x.json").write_text(json.dumps(plain), encoding="utf-8")
    assert build(command.request, read_settings(tmp_path / "x.json", command.settings, {}, name)) == request
    lines = [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in plain.items()]
    if not any(isinstance(value, dict) for value in plain.values()):
        (tmp_path / "x.toml").write_text("\n".join(lines), encoding="utf-8")
        assert build(command.request, read_settings(tmp_path / "x.toml", command.settings, {}, name)) == request


@each_command
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_command_line_of_a_request_gives_the_same_request(
    name: str, data: st.DataObject, requests: list[Any]
) -> None:
    command = LOADED[name]
    values = without_idle(name, data.draw(some_settings(name)))
    if "samples" in values or "reference" in values or "more" in values:  # arguments go by their order
        values = {key: value for key, value in values.items() if key not in ("samples", "reference", "more")}
    request = build(command.request, without_idle(name, values))
    words = shlex.split(command_line(name, command.request, given_in(request)))
    assert main([*words[1:], "-q"]) == 0
    assert requests[-1] == request


@each_command
def test_an_unknown_setting_is_refused_by_name_with_the_nearest(name: str, run_cli: RunCli, tmp_path: Path) -> None:
    for key in [key for key, made in LOADED[name].settings.items() if not made.required][:3]:
        (tmp_path / "x.toml").write_text(f"{key}z = 1\n", encoding="utf-8")
        result = run_cli(name, "--config", tmp_path / "x.toml")
        assert result.code == ExitCode.USAGE
        assert result.err.splitlines()[0] == f"error: x.toml: unknown setting '{key}z'"
        assert result.err.splitlines()[1].startswith("hint: did you mean ")


IDLE = [
    (name, key, need)
    for name, command in LOADED.items()
    for key, made in command.settings.items()
    for need in made.needs
]


@pytest.mark.parametrize(("name", "key", "need"), IDLE, ids=lambda value: getattr(value, "key", str(value)))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_setting_without_effect_is_refused_by_name(name: str, key: str, need: Needs, data: st.DataObject) -> None:
    command = LOADED[name]
    decider = command.settings[need.key]
    unmet = values_for(decider).filter(lambda value: not need.is_met(value))
    required = {one: data.draw(values_for(made)) for one, made in command.settings.items() if made.required}
    given_ = {**required, key: data.draw(values_for(command.settings[key]))}
    if need.unless:
        given_[need.key] = need.unless[0]
    elif need.values:
        given_[need.key] = data.draw(unmet)
    with pytest.raises(ConfigError, match="does nothing") as caught:
        build(command.request, given_)
    assert caught.value.message.startswith(command.settings[key].flag)


@each_command
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_error_about_a_setting_of_the_file_names_the_file(
    name: str, data: st.DataObject, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, file = LOADED[name], tmp_path / "x.json"
    values = without_idle(name, data.draw(some_settings(name)))
    plain = settings_to_json(values, command.request)

    def refuse(request: Any, out: Any) -> None:
        raise ConfigError(f"{flag} and --steps-x contradict each other", hint="leave one out")

    monkeypatch.setattr(app_module, "load_command", lambda name: replace(command, run=refuse))
    file.write_text(json.dumps(plain), encoding="utf-8")
    for key in {*plain, *list(command.settings)[:3]}:
        made = command.settings[key]
        flag = made.flag
        lines = run_cli(name, "--config", file).err.splitlines()
        expected = f" ({flag} from {file})" if key in plain and not made.positional else ""
        assert lines == [f"error: {flag} and --steps-x contradict each other{expected}", "hint: leave one out"]


@pytest.mark.parametrize(
    ("name", "content", "more", "words"),
    [
        ("sample", "at = '0.3,0.6'", ("--plan", "x.json"), "--at and --plan contradict each other (--at from x.toml)"),
        (
            "sample",
            "plan = 'x.json'",
            ("--at", "0.3,0.6"),
            "--at and --plan contradict each other (--plan from x.toml)",
        ),
        ("sample", "cfg_power = 2\ncfg_scale = 1", (), "(--cfg-power and --cfg-scale from x.toml)"),
    ],
)
def test_contradictions_with_the_file_name_it(
    run_cli: RunCli, empty_folder: Path, name: str, content: str, more: tuple[str, ...], words: str
) -> None:
    Path("x.toml").write_text(content, encoding="utf-8")
    result = run_cli(name, "--config", "x.toml", *more)
    assert result.code == ExitCode.USAGE
    assert words in result.err


def test_flags_win_over_the_file_and_arguments_may_stand_in_it(
    run_cli: RunCli, requests: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "x.toml").write_text('checkpoint = "a.pt"\nsteps = 10\nnum-images = 3\nrho = "0.3,0.1"\n')
    assert run_cli("sample", "--config", tmp_path / "x.toml", "--steps", "20").code == 0
    request = requests[0]
    assert (request.network.checkpoint, request.steps, request.num_images, request.rho) == ("a.pt", 20, 3, (0.3, 0.1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("steps = 'ten'\n", "steps in x.toml is 'ten', expected a whole number"),
        ("steps = 1\n", "steps in x.toml must be at least 2, got 1"),
        ("sampler = 'sdes'\n", "sampler in x.toml 'sdes': expected one of"),
        ("steps = \n", "is no TOML"),
        ("steps = 4\nsteps = 5\n", "is no TOML"),
        ('{"steps": 4, "steps": 5}', "is no JSON: a key is given twice"),
        ("[" * 5000, "is no"),
        ('{"format_version": 1, "training": {}, "request": {}}', "records a run of medcli finetune, not of sample"),
    ],
)
def test_a_wrong_file_is_refused_in_two_lines(run_cli: RunCli, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "x.toml").write_text(content, encoding="utf-8")
    result = run_cli("sample", "--config", tmp_path / "x.toml")
    assert result.code == ExitCode.USAGE
    assert words in result.err
    assert len(result.err.splitlines()) <= 2


def test_an_empty_record_is_not_taken_for_the_defaults(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("\n")
    result = run_cli("sample", "--config", tmp_path / "config.json")
    assert (result.code, "config.json is empty" in result.err) == (ExitCode.USAGE, True)


def test_a_file_that_is_missing_or_a_folder_is_named(run_cli: RunCli, tmp_path: Path) -> None:
    assert run_cli("flops", "--config", tmp_path / "none.toml").code == ExitCode.USAGE
    assert "is a folder" in run_cli("flops", "--config", tmp_path).err


def test_wrong_declarations_fail_when_they_are_read() -> None:
    from dataclasses import make_dataclass

    def declare(**fields: Any) -> Any:
        return make_dataclass("Wrong", [(name, Any, made) for name, made in fields.items()])

    for made, words in (
        (setting(1, help="No full stop", panel="Input"), "sentence"),
        (setting(1, help="Fine.", panel="Nowhere"), "unknown panel"),
        (setting("c", help="Fine.", panel="Input", choices=("a", "b")), "default"),
        (setting(1, help="Fine.", panel="Input", needs=Needs("other")), "does not exist"),
    ):
        with pytest.raises(TypeError, match=words):
            settings_of(declare(x=made))
    with pytest.raises(TypeError, match="has no setting"):
        group(LOADED["sample"].request, only=("stepz",))

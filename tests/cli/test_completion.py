"""What a shell offers while a command is typed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medcli.cli.app import COMMANDS, load_command, main
from medcli.cli.completion import suggestions
from medcli.presets import DEFAULT_BUNDLE, DEFAULT_PRESET


@pytest.fixture
def folder(empty_folder: Path) -> Path:
    for name in ("mine.safetensors", "mine.txt", ".hidden.pt", "runs/a.pt", "runs/notes.md"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    return empty_folder


@pytest.mark.parametrize(
    ("command", "key", "typed", "offered"),
    [
        ("flops", "models", "SiT-XL", ["SiT-XL/2", "SiT-XL/4", "SiT-XL/8"]),
        ("sample", "checkpoint", "", ["fashion", "mine.safetensors", "runs/"]),
        ("sample", "checkpoint", "m", ["mine.safetensors"]),
        ("sample", "checkpoint", "runs/", ["runs/a.pt"]),
        ("sample", "checkpoint", "gone/", []),
        ("sample", "sampler", "d", ["ddpm", "ddim"]),
        ("finetune", "preset", "sit-xl/2", [DEFAULT_PRESET]),
        ("finetune", "data", DEFAULT_BUNDLE[:3], [DEFAULT_BUNDLE]),
        ("fid", "samples", "run", ["runs/"]),
        ("demo", "bundle", "", ["fashion"]),
        ("sample", "steps", "", []),
    ],
)
def test_presets_bundles_and_files_of_the_folder_are_offered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, key: str, typed: str, offered: list[str]
) -> None:
    if "fashion" in offered:
        monkeypatch.setattr("medcli.data.assets.BUNDLES", ("fashion",))
    assert suggestions(load_command(command).settings[key], typed) == offered


@pytest.mark.parametrize(("typed", "offered"), [("flops SiT-XL/2", "SiT-XL/2"), ("sam", "sample")])
def test_bash_gets_the_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, offered: str
) -> None:
    monkeypatch.setitem(os.environ, "_MEDCLI_COMPLETE", "complete_bash")
    monkeypatch.setitem(os.environ, "COMP_WORDS", f"medcli {typed}")
    monkeypatch.setitem(os.environ, "COMP_CWORD", str(len(typed.split())))
    with pytest.raises(SystemExit):
        main([])
    assert offered in capsys.readouterr().out.split()


def test_every_setting_can_be_completed(folder: Path) -> None:
    for name in COMMANDS:
        for made in load_command(name).settings.values():
            assert isinstance(suggestions(made, ""), list)

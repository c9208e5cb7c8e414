"""Flags that would do nothing for what is asked."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medcli.errors import ExitCode
from tests.conftest import RunCli
from tests.unit.engine.tiny import PIXELS, save, state_of, with_ladder

DENSE = with_ladder(replace(PIXELS, in_channels=4, autoencoder="vae", latent_scale=0.18215, latent_downsample=8))
HINTS = ("--heads", "2")
SOURCES = {
    "own": ("own.safetensors",),
    "averaged": ("averaged.safetensors",),
    "bare": ("bare.pt", *HINTS, "--family", "sit"),
    "training": ("training.pt", *HINTS),
    "diffusers": ("dit",),
    "preset": ("SiT-S/2",),
}
COMMANDS = {
    "inspect": (("inspect",), ()),
    "convert": (("convert",), ("--layers", "none", "-o", "o.safetensors", "--force")),
    "flops": (("flops",), ()),
}
FLAGS = {"--family": ("dit", "sit"), "--heads": ("4",), "--weights": ("model",)}
TRUE = {
    *(("averaged", "--family", "sit"), ("own", "--family", "sit"), ("own", "--weights", "model")),
    *(("diffusers", "--family", "dit"), ("diffusers", "--weights", "model")),
    *(("bare", "--family", "sit"), ("bare", "--weights", "model"), ("training", "--family", "sit")),
}
"""Hints that say what the source is."""
COSTS_ALIKE = {("flops", "bare", "--family", "dit"), ("flops", "training", "--family", "dit")}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of every source in a folder."""
    folder = tmp_path_factory.mktemp("sources")
    save(folder / "own.safetensors", DENSE, weights="model")
    save(folder / "averaged.safetensors", DENSE, weights="ema")
    torch.save(state_of(DENSE), folder / "bare.pt")
    args = argparse.Namespace(model="SiT-S/2", num_classes=10)
    torch.save({"model": state_of(DENSE), "ema": state_of(DENSE, 1), "args": args}, folder / "training.pt")
    return folder


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_hint_for_the_network_is_ignored_in_silence(
    command: str, source: str, sources: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "preset" and command != "flops":
        pytest.skip("takes checkpoints alone")
    monkeypatch.chdir(sources)
    if source == "diffusers" and not Path("dit").exists():
        words = ("bare.pt", *HINTS, "--family", "dit", "--layers", "none", "--to", "diffusers", "-o", "dit", "-q")
        assert run_cli("convert", *words).code == 0
    before, after = COMMANDS[command]
    own = SOURCES[source]

    def run(words: tuple[str, ...]) -> tuple[int, Any, str]:
        result = run_cli(*before, *words, *after, "--json")
        return result.code, json.loads(result.out) if result.out else None, result.err

    plain = run(own)
    for flag, values in FLAGS.items():
        if command == "inspect" and flag == "--weights" or command == "flops" and flag == "--weights":
            continue
        for value in values:
            kept = tuple(word for at, word in enumerate(own) if flag not in (word, own[at - 1] if at else ""))
            if (source, flag, value) in TRUE or (command, source, flag, value) in COSTS_ALIKE:
                continue
            code, report, err = run((*kept, flag, value))
            assert (code, report, err) != plain, f"{command} {source} {flag} {value}"


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        ("finetune --mask-ratios 0.1-0.2", "--mask-ratios does nothing without --mask", "add --mask down"),
        ("finetune --mask-mid none", "--mask-mid does nothing without --mask", "add --mask down"),
        ("bench --steps 0 --rho 0.3,0.1", "--rho does nothing with --steps 0", "leave"),
        ("sample --amm-form cos", "--amm-form does nothing without --amm", "add --amm auto"),
        ("finetune --mediators none --train-dense", "--train-dense does nothing without mediators", "leave"),
        ("finetune --mediators none --ladder-rule split", "--ladder-rule does nothing with one count", "leave"),
    ],
)
def test_a_flag_without_a_meaning_is_refused_by_name(
    words: str, said: str, hint: str, run_cli: RunCli, empty_folder: Path
) -> None:
    result = run_cli(*words.split())
    assert result.code == ExitCode.USAGE
    assert said in result.err
    assert f"hint: {hint}" in result.err
    assert not list(empty_folder.iterdir())

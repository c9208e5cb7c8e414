"""Mediators that no training has changed are recognised by their zero biases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from medcli.checkpoint.neutral import neutral_counts
from medcli.checkpoint.surgery import operate, target_config
from medcli.checkpoint.writer import record_of
from tests.conftest import RunCli
from tests.unit.checkpoint.builders import TINY, random_state
from tests.unit.engine.tiny import PIXELS, save, with_ladder


def test_new_counts_are_neutral_and_trained_ones_are_not() -> None:
    trained = replace(TINY, mediators=(4,), mediator_layers=(0, 2))
    records = {name: record_of(name, tensor) for name, tensor in random_state(trained).items()}
    assert neutral_counts(records, trained, (4, 0)) == ()
    target = target_config(trained, mediators=(4, 16), layers=None)
    converted = operate(records, trained, target).records
    assert neutral_counts(converted, target, (4, 16, 0)) == (16,)


def test_one_layer_that_is_trained_is_enough() -> None:
    config = replace(TINY, mediators=(4,), mediator_layers=(0, 2))
    state = random_state(config)
    for name in state:
        if "_bias" in name:
            state[name] = torch.zeros_like(state[name])
    records = {name: record_of(name, tensor) for name, tensor in state.items()}
    assert neutral_counts(records, config, (4,)) == (4,)
    state["blocks.2.attn.wa_bias"][..., -1] = 1e-30
    records = {name: record_of(name, tensor) for name, tensor in state.items()}
    assert neutral_counts(records, config, (4,)) == ()


def test_sampling_warns_of_them(empty_folder: Path, run_cli: RunCli) -> None:
    save(empty_folder / "dense.safetensors", with_ladder(PIXELS))
    assert run_cli("convert", "dense.safetensors", "--mediators", "1,4,16", "-o", "new.safetensors").code == 0
    quick = ("--steps", "3", "--num-images", "1", "--device", "cpu", "--schedule")
    warned = run_cli("sample", "new.safetensors", *quick, "timed", "--at", "0.3,0.6").err
    assert "warning: the 1, 4, 16 mediators of new.safetensors were never trained" in warned
    assert "never trained" not in run_cli("sample", "new.safetensors", *quick, "full").err
    save(empty_folder / "trained.safetensors", PIXELS)
    stages = ("--stage", "4=new.safetensors", "--stage", "16=trained.safetensors")
    staged = run_cli("sample", *stages, *quick, "timed", "--at", "0.5", "-o", "staged").err
    assert "warning: the 4 mediators of new.safetensors were never trained" in staged
    assert "trained.safetensors were" not in staged

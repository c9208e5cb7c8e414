"""Memory and time of a step from a tried micro-batch, against shapes, a counting clock and a real run."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medcli.errors import EnvironmentProblem
from medcli.model.layout import num_params
from medcli.runtime.timing import Clock
from medcli.training import step_trial
from medcli.training.config import TrainConfig
from medcli.training.masking import Masking
from medcli.training.selection import select
from medcli.training.step_trial import StepMemory, count_shares, try_step
from tests.unit.training.runs import DATA
from tests.unit.training.small_models import LADDER_MODEL, MDT_MODEL, shaken

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]
CONFIG = TrainConfig(steps=4, global_batch_size=8, micro_batch_size=8, counts=(0, 1, 4), ema=0.9)


class Ticking:
    """A wall clock that goes on by a second at each look, so that every run takes one."""

    def __init__(self):
        self.looks = 0

    def clock(self):
        return Clock(name="ticking", now=lambda: 0.0, wall=self.look, synchronize=lambda: None)

    def look(self):
        self.looks += 1
        return float(self.looks)


def tried(config=CONFIG, model_config=LADDER_MODEL, what="all", teacher=None, **changes):
    model = shaken(model_config)
    select(model_config, what).apply(model)
    sizes = {"num_images": 8, "micro_batch_size": 8, "num_tried": 8, **changes}
    return try_step(model, teacher, DATA, config, device=CPU, clock=Ticking().clock(), **sizes)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak")
@pytest.mark.parametrize(
    ("batch", "micro", "what", "family"),
    [
        pytest.param(6, 6, "all", "sit", marks=pytest.mark.slow),
        (6, 2, "attention", "sit"),
        pytest.param(6, 6, "all", "edt", marks=pytest.mark.slow),
        pytest.param(6, 3, "all", "mdtv2", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(batch, micro, what, family):
    script = Path(__file__).with_name("measure_memory.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    words = [sys.executable, str(script), str(batch), str(micro), what, family]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout)
    assert found["estimate_mib"] == pytest.approx(found["peak_mib"], rel=0.25)


def test_what_lasts_is_counted_from_the_parameters():
    found = tried(what="attention").memory
    trained = 4 * select(LADDER_MODEL, "attention").num_trained
    assert found.weights == 4 * num_params(LADDER_MODEL)
    assert (found.gradients, found.moments, found.averages, found.teacher) == (trained, 2 * trained, trained, 0)
    adan = tried(dataclasses.replace(CONFIG, optimizer="adan")).memory
    assert adan.moments == 4 * adan.gradients


def test_the_total_is_the_larger_of_passes_and_update_with_gradients_held_only_between_micro_batches():
    plain = StepMemory(
        weights=10,
        gradients=4,
        moments=8,
        averages=4,
        teacher=1,
        activations=20,
        update=3,
        waste=5,
        is_accumulated=False,
    )
    assert plain.total == 10 + 1 + 8 + 4 + 20 + 5
    assert dataclasses.replace(plain, is_accumulated=True).total == plain.total + 4
    assert dataclasses.replace(plain, activations=2).total == 10 + 1 + 8 + 4 + (4 + 3) + 5


def test_activations_grow_with_the_images_and_less_is_kept_of_frozen_or_checkpointed_blocks():
    whole = tried()
    half = tried(micro_batch_size=4, num_tried=4).memory
    assert whole.memory.activations == pytest.approx(2 * half.activations, rel=0.05)
    assert (whole.memory.is_accumulated, half.is_accumulated) == (False, True)
    checkpointed = tried(dataclasses.replace(CONFIG, checkpoint_activations=True)).memory
    assert checkpointed.activations < whole.memory.activations / 1.5
    assert tried(dataclasses.replace(CONFIG, counts=(0,))).memory.activations <= whole.memory.activations
    assert tried(
        dataclasses.replace(CONFIG, counts=(0,), masking=Masking(where="input")), MDT_MODEL
    ).memory.is_accumulated


def test_a_part_of_the_micro_batch_is_scaled_to_all_of_it():
    part, whole = tried(num_tried=4), tried()
    assert part.memory.activations == pytest.approx(whole.memory.activations, rel=0.05)
    assert (part.time.num_timed_images, whole.time.num_timed_images) == (4, 8)


def test_a_pass_is_timed_at_each_count_and_scaled_to_the_images_of_a_step():
    found = tried(num_images=24)
    assert found.time.passes == pytest.approx(24 / 8)  # a second a pass of 8 images, at each count
    assert found.time.update == 1
    assert tried(num_images=24, num_tried=4).time.passes == pytest.approx(24 / 4)


def test_shares_are_those_of_the_rule():
    assert count_shares("split", (0, 1, 4)) == pytest.approx({0: 1 / 3, 1: 1 / 3, 4: 1 / 3})
    shares = count_shares("sandwich", (1, 4, 16, 0))
    assert (shares[0], shares[1]) == pytest.approx((1 / 3, 1 / 3))
    assert shares[4] + shares[16] == pytest.approx(1 / 3)
    assert sum(shares.values()) == pytest.approx(1)
    assert count_shares("sandwich", (4,)) == {4: 1.0}


def test_a_run_that_can_not_fit_is_refused_before_any_step(monkeypatch):
    monkeypatch.setattr(step_trial, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(step_trial, "Trainer", None)
    with pytest.raises(EnvironmentProblem, match="a step needs at least"):
        tried()

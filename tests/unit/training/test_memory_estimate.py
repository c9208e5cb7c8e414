"""What a step is said to hold."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from medcli.model.layout import num_params
from medcli.training.memory_estimate import Demand, demand_of, estimate_memory
from medcli.training.selection import select
from medcli.training.step_pieces import Piece, StepShape, kinds_of
from tests.unit.training.small_models import LADDER_MODEL

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]
STEP = StepShape(
    config=LADDER_MODEL, selection=select(LADDER_MODEL), counts=(0, 1, 4), num_images=8, micro_batch_size=8
)


def estimate(**changes):
    return estimate_memory(dataclasses.replace(STEP, **changes), CPU)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell the peak")
@pytest.mark.parametrize(
    ("batch", "micro", "what", "family"),
    [(6, 6, "all", "sit"), (6, 2, "attention", "sit"), (6, 6, "all", "edt"), (6, 3, "all", "mdtv2")],
)
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(batch, micro, what, family):
    script = Path(__file__).with_name("measure_memory.py")
    words = [sys.executable, str(script), str(batch), str(micro), what, family]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    told = json.loads(done.stdout)
    assert told["estimate_mib"] == pytest.approx(told["peak_mib"], rel=0.25)


def test_what_lasts_is_counted_from_shapes():
    found = estimate(selection=select(LADDER_MODEL, "attention"))
    trained = 4 * select(LADDER_MODEL, "attention").num_trained
    assert found.weights == 4 * num_params(LADDER_MODEL)
    assert (found.gradients, found.moments, found.averages, found.teacher) == (trained, 2 * trained, trained, 0)
    assert estimate(teacher=LADDER_MODEL).teacher == found.weights


def test_activations_grow_with_the_images_and_gradients_wait_where_they_accumulate():
    one, two = estimate(micro_batch_size=4), estimate(micro_batch_size=8)
    assert two.activations == pytest.approx(2 * one.activations, rel=0.05)
    assert one.is_accumulated
    assert not two.is_accumulated
    lasting = one.weights + one.moments + one.averages
    assert one.total == lasting + one.gradients + max(one.update, one.activations + one.waste)
    assert two.total == lasting + max(two.gradients + two.update, two.activations + two.waste)


def test_a_block_at_a_time_and_fewer_trained_parameters_keep_less():
    whole = estimate()
    assert estimate(is_checkpointed=True).activations < whole.activations / 1.5
    late = select(LADDER_MODEL, "all", ("x_embedder", "t_embedder", "y_embedder", "blocks.0"))
    assert estimate(selection=late).activations < whole.activations
    assert estimate(counts=(0,)).activations <= whole.activations


def test_blocks_before_the_first_trained_one_keep_nothing():
    selection = select(LADDER_MODEL, "all", ("x_embedder", "t_embedder", "y_embedder", "blocks.0"))
    kinds = kinds_of(dataclasses.replace(STEP, selection=selection))
    assert [(kind.layer, kind.has_gradient, number) for kind, number in kinds.items()] == [(0, False, 1), (1, True, 1)]
    assert list(kinds_of(STEP).values()) == [2]


def test_gradients_wait_for_a_masked_pass():
    assert not estimate().is_accumulated
    assert estimate(is_masked=True).is_accumulated


def test_a_demand_is_what_is_kept_and_all_that_is_asked_for():
    layer = nn.Linear(10, 10)

    def forward(num_images, count):
        x = torch.zeros(num_images, 10)  # kept for the weight's gradient
        return layer(x + 1).exp()  # the sum and the exponential are kept, the zeros and the product are not

    found = demand_of(Piece(layer, forward), dataclasses.replace(STEP, micro_batch_size=3), 0)
    row = 3 * 10 * 4
    assert found == Demand(kept=2 * row, asked=4 * row)


def test_estimating_draws_no_random_number():
    before = torch.get_rng_state()
    estimate()
    assert torch.equal(torch.get_rng_state(), before)

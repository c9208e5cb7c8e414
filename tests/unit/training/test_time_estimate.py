"""How long a step is said to take, by a clock that counts."""

import dataclasses

import pytest
import torch

from medcli.runtime.timing import Clock
from medcli.training.selection import select
from medcli.training.step_pieces import StepShape
from medcli.training.time_estimate import RUNS, count_shares, estimate_seconds
from tests.unit.training.small_models import EDT_MODEL, LADDER_MODEL, MDT_MODEL

STEP = StepShape(
    config=dataclasses.replace(LADDER_MODEL, depth=5, mediator_layers=(0, 1)),
    selection=select(LADDER_MODEL),
    counts=(0, 1, 4),
    num_images=12,
    micro_batch_size=6,
)


class Ticking:
    """A wall clock that goes on by a second at each look, so that every run takes one."""

    def __init__(self):
        self.looks = 0

    def clock(self):
        return Clock(name="ticking", now=lambda: 0.0, wall=self.look, synchronize=lambda: None)

    def look(self):
        self.looks += 1
        return float(self.looks)


def estimate(step=STEP, rule="sandwich"):
    ticking = Ticking()
    return estimate_seconds(step, rule, torch.device("cpu"), ticking.clock()), ticking


def test_blocks_are_added_up_and_scaled_to_the_images_of_a_step():
    seconds, _ = estimate(dataclasses.replace(STEP, selection=select(STEP.config)))
    pieces = 1 + STEP.config.depth  # the ends and each block, a second each
    assert seconds.passes == pytest.approx(pieces / 6 * 12)
    assert seconds.num_timed_images == 6
    assert seconds.update == pytest.approx(1.0)


def test_each_kind_is_timed_once_a_count_it_knows():
    _, ticking = estimate(dataclasses.replace(STEP, selection=select(STEP.config)))
    pieces = 1 + 3 + 1  # ends; a block with mediators at 0, 1 and 4; a dense block
    assert ticking.looks == 2 * RUNS * (pieces + 1)  # before and after each run; the update is timed, too


def test_a_teacher_answers_and_a_masked_pass_comes_beside():
    plain = estimate()[0].passes
    taught = estimate(dataclasses.replace(STEP, teacher=LADDER_MODEL))[0].passes
    answer = 1 + LADDER_MODEL.depth  # its ends and blocks
    assert taught == pytest.approx(plain + answer / 6 * 12)
    assert estimate(dataclasses.replace(STEP, is_masked=True))[0].passes == pytest.approx(2 * plain)


@pytest.mark.parametrize("config", [EDT_MODEL, MDT_MODEL], ids=lambda config: config.family)
def test_blocks_of_every_stage_are_timed(config):
    step = dataclasses.replace(STEP, config=config, selection=select(config), counts=(0,))
    seconds, ticking = estimate(step)
    assert seconds.passes == pytest.approx((1 + config.depth) / 6 * 12)
    assert ticking.looks == 2 * RUNS * (1 + 3 + 1)  # ends, three kinds of blocks, the update


def test_shares_are_those_of_the_rule():
    assert count_shares("split", (0, 1, 4)) == pytest.approx({0: 1 / 3, 1: 1 / 3, 4: 1 / 3})
    shares = count_shares("sandwich", (1, 4, 16, 0))
    assert (shares[0], shares[1]) == pytest.approx((1 / 3, 1 / 3))
    assert shares[4] + shares[16] == pytest.approx(1 / 3)
    assert sum(shares.values()) == pytest.approx(1)
    assert count_shares("sandwich", (4,)) == {4: 1.0}


def test_estimating_draws_no_random_number():
    before = torch.get_rng_state()
    estimate()
    assert torch.equal(torch.get_rng_state(), before)

from dataclasses import replace

import pytest
import torch

from medcli.cost.macs import closed_form_macs
from medcli.engine.cost import done_gmacs, gmacs_of_moves, image_gmacs, pass_gmacs
from tests.unit.engine.tiny import PIXELS


def test_a_pass_costs_what_the_closed_form_counts() -> None:
    assert pass_gmacs(PIXELS, 4) == closed_form_macs(PIXELS, num_mediators=4) / 1e9


def test_absorption_saves_only_what_mediators_allow() -> None:
    dense = replace(PIXELS, mediators=(), mediator_layers=())
    assert done_gmacs(dense, 0) == pass_gmacs(dense, 0)
    assert done_gmacs(PIXELS, 1) < pass_gmacs(PIXELS, 1)


def test_an_image_costs_its_calls_at_each_index() -> None:
    assert image_gmacs((2, 0, 3), (1.0, 10.0, 100.0)) == 302


def test_moves_decide_at_which_index_steps_are_paid() -> None:
    passes = torch.tensor([1, 1, 2, 2])  # the last two steps are guided
    # A move triggered by step k is paid from step k + 1 on.
    moves: list[tuple[int, ...]] = [(), (0,), (1, 2), (0,)]
    assert gmacs_of_moves(passes, moves, (1.0, 10.0, 100.0)) == pytest.approx([6, 51, 222, 51])

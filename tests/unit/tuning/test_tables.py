"""Replays: the rule on recorded distances is the rule, image by image."""

from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medcli.engine.generate import calls_by_ladder_index
from medcli.tuning.space import DENSE, Configuration, NetworkVariant
from medcli.tuning.tables import ChangeTable, Tables

NUM_STEPS = 14
COUNTS = (1, 4, 16, 25)


def tables_of(distances, *, num_deciding=NUM_STEPS - 1, warmup_steps=3, distance="l1", errors=None):
    """Tables of the networks 1, 4, 16, ... in layer 0 that moved images by these distances, (E, K, I)."""
    made = {}
    for count, own in zip(COUNTS, distances, strict=False):
        error = np.ones_like(own) if errors is None else errors[count]
        made[NetworkVariant((0,), count)] = ChangeTable(np.stack([error, own, own**2]))
    num_images = distances[0].shape[1]
    made[DENSE] = ChangeTable(np.stack([np.zeros_like(distances[0]), distances[0], distances[0] ** 2]))
    return Tables(
        of_variant=MappingProxyType(made),
        norm_I=np.full(num_images, 2.0),
        passes_K=np.arange(1, NUM_STEPS + 1),
        num_deciding=num_deciding,
        warmup_steps=warmup_steps,
        distance=distance,
    )


def replayed_one_by_one(tables, configuration, image):
    """The same by the public rule, a distance at a time."""
    rule = configuration.schedule(tables.warmup_steps, tables.distance).rule()
    state, moves = rule.start(), []
    for step in range(1, tables.num_deciding):
        network = tables.of_variant[NetworkVariant((0,), configuration.counts[state.index])]
        after = rule.observe(state, float(network.distance_KI(tables.distance)[step, image]))
        moves += [step] * (after.index - state.index)
        state = after
    return moves + [NUM_STEPS] * (len(configuration.rho) - len(moves))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rho=st.lists(st.sampled_from([0.95, 0.9, 0.7, 0.5, 0.3, 0.1]), min_size=1, max_size=3, unique=True),
    warmup_steps=st.integers(1, NUM_STEPS + 2),
    num_deciding=st.integers(1, NUM_STEPS),
    distance=st.sampled_from(["l1", "l2"]),
)
def test_a_replay_of_all_images_is_the_rule_image_by_image(seed, rho, warmup_steps, num_deciding, distance):
    fall = np.linspace(1, 0.1, NUM_STEPS)[:, None]
    distances = np.random.default_rng(seed).uniform(0.2, 1.2, (4, NUM_STEPS, 5)) * fall
    tables = tables_of(distances, num_deciding=num_deciding, warmup_steps=warmup_steps, distance=distance)
    rho = tuple(sorted(rho, reverse=True))
    configuration = Configuration((0,), COUNTS[: len(rho) + 1], rho)
    moves_JI = tables.moves_of(configuration)
    for image in range(5):
        assert moves_JI[:, image].tolist() == replayed_one_by_one(tables, configuration, image)


def test_one_step_may_make_two_moves_by_the_distance_of_the_network_that_made_it():
    distances = np.ones((3, NUM_STEPS, 1))
    distances[0, 6] = 0.05  # the first network's step falls under both thresholds
    distances[1, 6] = 0.9  # the second's would not have
    configuration = Configuration((0,), (1, 4, 16), (0.5, 0.1))
    assert tables_of(distances).moves_of(configuration).tolist() == [[6], [6]]


def test_so_it_is_for_three_moves():
    distances = np.ones((4, NUM_STEPS, 1))
    distances[0, 6] = 0.01
    configuration = Configuration((0,), COUNTS, (0.5, 0.3, 0.1))
    assert tables_of(distances).moves_of(configuration).tolist() == [[6], [6], [6]]


def test_costs_are_those_of_the_calls_the_engine_would_make():
    distances = np.ones((3, NUM_STEPS, 3))
    distances[0, 5:, 0] = 0.4
    distances[1, 9:, 0] = 0.05
    distances[0, 7:, 1] = 0.05
    tables = tables_of(distances)
    configuration = Configuration((0,), (1, 4, 16), (0.5, 0.1))
    assert tables.moves_of(configuration).T.tolist() == [[5, 9], [7, 7], [NUM_STEPS, NUM_STEPS]]
    prices = {NetworkVariant((0,), 1): 1.0, NetworkVariant((0,), 4): 10.0, NetworkVariant((0,), 16): 100.0}
    passes_K = torch.as_tensor(tables.passes_K)
    for image, moves in enumerate([(5, 9), (7, 7), ()]):
        calls = calls_by_ladder_index(passes_K, moves, 3)
        wanted = sum(count * price for count, price in zip(calls, prices.values(), strict=True))
        assert tables.costs_of(configuration, prices)[image] == wanted


def test_expected_errors_add_up_over_the_steps_of_each_network():
    distances = np.ones((2, NUM_STEPS, 2))
    distances[0, 5, 0] = 0.1
    errors = {1: np.full((NUM_STEPS, 2), 1.0), 4: np.full((NUM_STEPS, 2), 0.25)}
    tables = tables_of(distances, errors=errors)
    static = Configuration((0,), (1,))
    assert tables.error_of(static) == pytest.approx(NUM_STEPS / 2)
    first, second = 6 + 0.25 * (NUM_STEPS - 6), NUM_STEPS
    assert tables.error_of(Configuration((0,), (1, 4), (0.5,))) == pytest.approx((first + second) / 2 / 2)
    assert tables.error_of(Configuration((), (0,))) == 0


def test_thresholds_fire_at_rising_steps_of_the_median_image():
    fall = np.linspace(1, 0.1, NUM_STEPS)[:, None] * np.ones(3)
    tables = tables_of([fall, fall])
    thresholds = tables.thresholds(NetworkVariant((0,), 1))
    assert len(thresholds) >= 5
    assert all(value == float(f"{value:.3g}") for value in thresholds)
    moves = [int(np.median(tables.moves_of(Configuration((0,), (1, 4), (rho,))))) for rho in thresholds]
    assert moves == sorted(moves, reverse=True)
    assert len(set(moves)) == len(moves)
    assert 4 <= moves[-1] < moves[0] < NUM_STEPS - 1


def test_a_way_without_a_step_that_decides_has_no_thresholds():
    still = np.zeros((NUM_STEPS, 2))
    assert tables_of([still]).thresholds(NetworkVariant((0,), 1)) == []
    assert tables_of([np.ones((NUM_STEPS, 2))], warmup_steps=NUM_STEPS).thresholds(NetworkVariant((0,), 1)) == []

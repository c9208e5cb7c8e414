"""Which counts a step trains, for any ladder, seed and step."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from medcli.training.batches import CYCLE, counts_of_step
from medcli.training.objective import runs

COUNTS = [0, *(side**2 for side in range(1, 9))]
LADDERS = st.lists(st.sampled_from(COUNTS), min_size=1, max_size=6, unique=True).map(tuple)
SEEDS = st.integers(0, 2**64 - 1)
STEPS = st.integers(0, 10**7)
BATCHES = st.integers(1, 300)


def by_cost(counts: tuple[int, ...]) -> list[int]:
    """Rising; full attention is the most."""
    return sorted(counts, key=lambda count: count or max(COUNTS) + 1)


@given(LADDERS, SEEDS, STEPS, BATCHES)
@settings(deadline=None)
def test_three_steps_in_a_row_train_the_largest_the_smallest_and_a_third(
    counts: tuple[int, ...], seed: int, step: int, batch: int
) -> None:
    rows = [counts_of_step("sandwich", counts, seed, at, batch) for at in range(step, step + 3)]
    assert all(len(set(counts)) == 1 and len(counts) == batch for counts in rows)
    trained = [counts[0] for counts in rows]
    rising = by_cost(counts)
    if len(counts) < 3:
        assert set(trained) == set(counts)
        return
    (third,) = set(trained) - {rising[0], rising[-1]}
    assert third in rising[1:-1]


@given(LADDERS, SEEDS, STEPS, BATCHES, st.sampled_from(["sandwich", "split"]))
@settings(deadline=None)
def test_the_counts_of_a_step_are_a_function_of_seed_and_step(
    counts: tuple[int, ...], seed: int, step: int, batch: int, rule: str
) -> None:
    first = counts_of_step(rule, counts, seed, step, batch)
    counts_of_step(rule, counts, seed + 1, step + 1, batch)
    assert counts_of_step(rule, counts, seed, step, batch) == first
    if rule == "sandwich":  # in whatever order the ladder is named, whatever the batch
        assert counts_of_step(rule, tuple(reversed(counts)), seed, step, 1) == first[:1]


@given(LADDERS, SEEDS)
@settings(max_examples=10, deadline=None)
def test_every_entry_is_reached_and_those_between_equally_often(counts: tuple[int, ...], seed: int) -> None:
    trained = [counts_of_step("sandwich", counts, seed, step, 1)[0] for step in range(CYCLE * 60)]
    assert set(trained) == set(counts)
    middle = by_cost(counts)[1:-1]
    for count in middle:
        expected = 60 / len(middle)
        assert 0.1 * expected < trained.count(count) < 3 * expected


@given(LADDERS, SEEDS, STEPS, BATCHES)
@settings(deadline=None)
def test_split_gives_every_entry_an_equal_run_in_the_order_given(
    counts: tuple[int, ...], seed: int, step: int, batch: int
) -> None:
    trained = counts_of_step("split", counts, seed, step, batch)
    assert len(trained) == batch
    # How the bundled model was trained: row r of a batch of B belongs to the count whose share of [0, B) holds it.
    edges = [batch * position // len(counts) for position in range(len(counts) + 1)]
    expected = [
        (count, slice(*edges[position : position + 2]))
        for position, count in enumerate(counts)
        if edges[position] < edges[position + 1]
    ]
    assert list(runs(trained)) == expected

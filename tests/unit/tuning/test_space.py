"""The space of configurations: nothing is missing, nothing is twice, and every one can be run."""

from itertools import pairwise

from medcli.tuning.space import (
    FULL_ATTENTION,
    MOST_LAYER_SETS,
    Configuration,
    NetworkVariant,
    configurations,
    ladders,
    layer_sets,
    listing_of,
    rounded_up,
)


def test_of_few_layers_every_subset_is_considered_once():
    sets = layer_sets([2, 0, 3, 1])
    assert len(sets) == len(set(sets)) == 15
    assert all(list(layers) == sorted(set(layers)) for layers in sets)


def test_of_many_layers_the_first_of_the_order_from_one_to_all():
    order = [5, 3, 8, 0, 1, 2, 4, 6, 7, *range(9, 28)]
    sets = layer_sets(order)
    assert sets[0] == (5,)
    assert sets[-1] == tuple(range(28))
    assert len(sets) <= MOST_LAYER_SETS
    assert all(set(smaller) < set(larger) for smaller, larger in pairwise(sets))
    assert set(sets[1]) == set(order[: len(sets[1])])


def test_ladders_are_all_parts_of_the_counts():
    assert ladders([16, 1, 4]) == [(1,), (4,), (16,), (1, 4), (1, 16), (4, 16), (1, 4, 16)]


def test_every_choice_of_falling_thresholds_is_made_and_full_attention_is_among_the_configurations():
    asked = []

    def rhos_of(variant):
        asked.append(variant)
        return [0.2, 0.5, 0.4]

    made = configurations([(0,), (0, 1)], [1, 4, 16], rhos_of)
    assert made[0] == FULL_ATTENTION
    assert len(made) == len(set(made)) == 1 + 2 * (3 + 3 * 3 + 3)
    assert {one.rho for one in made if one.counts == (1, 4, 16)} == {(0.5, 0.4), (0.5, 0.2), (0.4, 0.2)}
    assert set(asked) == {NetworkVariant(layers, count) for layers in ((0,), (0, 1)) for count in (1, 4)}
    for one in made:
        one.schedule(3, "l1")  # refuses what can't be run
    assert len({one.name for one in made}) == len(made)


def test_thresholds_are_written_so_that_they_read_back():
    rho = (0.1 + 0.2, 1e-05)
    assert tuple(map(float, listing_of(rho).split(","))) == rho


def test_a_configuration_says_what_it_is():
    assert FULL_ATTENTION.to_json() == {"layers": [], "ladder": [], "rho": [], "schedule": "full"}
    assert Configuration((0, 2), (4,)).to_json()["schedule"] == "static"
    assert Configuration((0, 2), (1, 4), (0.3,)).to_json() == {
        "layers": [0, 2], "ladder": [1, 4], "rho": [0.3], "schedule": "dynamic",
    }  # fmt: skip


def test_numbers_are_rounded_to_what_is_truly_above_them():
    assert rounded_up(0.1231, 3) == 0.124
    assert rounded_up(0.123, 3) == 0.124
    assert rounded_up(2.91701, 4) == 2.918
    assert rounded_up(1234.5, 2) == 1300

"""Budgets of a tuning against costs that are rounded."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medcli.errors import ConfigError
from medcli.workflows.tune.request import Budget

COSTS = st.floats(1e-3, 1e6)


@given(COSTS, st.integers(1, 1000), st.integers(1, 1000))
def test_a_budget_of_a_mean_over_images_allows_what_each_costs_and_the_other_way_round(cost, steps, images):
    exact = steps * cost
    mean = math.fsum([exact] * images) / images
    summed = sum([cost] * steps)
    for one in (exact, mean, summed):
        for other in (exact, mean, summed):
            Budget("gmacs", one).check(other, 2 * exact)
            assert other <= Budget("gmacs", one).tolerant_limit(2 * exact)


@given(COSTS, st.floats(0.01, 0.99))
def test_the_saving_of_the_cheapest_is_met_and_more_is_refused(dense, share):
    cheapest = dense * (1 - share)
    saving = 100 * (1 - cheapest / dense)
    Budget("saving", saving).check(cheapest, dense)
    assume(saving + 0.001 < 100)
    with pytest.raises(ConfigError, match="out of reach"):
        Budget("saving", saving + 0.001).check(cheapest, dense)


@given(COSTS, st.integers(1, 1000))
def test_what_full_attention_costs_is_no_budget_however_it_is_rounded(dense, images):
    for given_budget in (dense, math.fsum([dense] * images) / images, sum([dense / images] * images)):
        with pytest.raises(ConfigError, match="allows full attention"):
            Budget("gmacs", given_budget).check(dense / 2, dense)

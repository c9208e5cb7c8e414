import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medcli.engine.batched_rule import distance, observe
from medcli.schedule.dynamic import DynamicSchedule

LADDERS = [(4,), (1, 4), (1, 4, 16), (1, 4, 16, 64)]

distances = st.one_of(
    st.floats(min_value=0, max_value=2, width=32), st.sampled_from([0.0, 0.25, 0.5, 1.0, float("nan"), float("inf")])
)


@given(data=st.data())
def test_vectors_move_exactly_like_single_schedules(data: st.DataObject) -> None:
    ladder = data.draw(st.sampled_from(LADDERS))
    rho = tuple(data.draw(st.sampled_from([0.0, 0.125, 0.25, 0.3, 0.5, 0.9, 1.5])) for _ in ladder[1:])
    rule = DynamicSchedule(ladder=ladder, rho=rho, warmup_steps=data.draw(st.integers(1, 4)))
    sequences = data.draw(st.lists(st.lists(distances, min_size=8, max_size=8), min_size=1, max_size=5))
    states = [rule.start() for _ in sequences]
    index_B = torch.zeros(len(sequences), dtype=torch.int64)
    warmup_sum_B = torch.zeros(len(sequences), dtype=torch.float64)
    for seen, column in enumerate(zip(*sequences, strict=True), start=1):
        states = [rule.observe(state, moved) for state, moved in zip(states, column, strict=True)]
        observed_B = torch.full_like(index_B, seen)
        index_B, warmup_sum_B = observe(
            rule, index_B, warmup_sum_B, observed_B, torch.tensor(column, dtype=torch.float64)
        )
        assert index_B.tolist() == [state.index for state in states]
        # repr, because NaN differs from itself.
        assert repr(warmup_sum_B.tolist()) == repr([state.warmup_sum for state in states])


def test_images_of_one_call_may_have_seen_different_numbers_of_steps() -> None:
    rule = DynamicSchedule(ladder=(1, 4), rho=(0.5,), warmup_steps=2)
    index_B, warmup_sum_B = observe(
        rule,
        torch.tensor([0, 0, 1]),
        torch.tensor([1.0, 4.0, 4.0], dtype=torch.float64),
        torch.tensor([2, 3, 3]),
        torch.tensor([0.1, 0.1, 9.0], dtype=torch.float64),
    )
    assert index_B.tolist() == [0, 1, 1]
    assert warmup_sum_B.tolist() == [1.1, 4.0, 4.0]


@pytest.mark.parametrize(("name", "expected"), [("l1", [1.5, 0.0]), ("l2", [2.5, 0.0])])
def test_distance_is_the_mean_over_an_images_own_elements(name: str, expected: list[float]) -> None:
    before = torch.zeros(2, 1, 1, 2)
    after = torch.tensor([[[[1.0, -2.0]]], [[[0.0, 0.0]]]])
    assert distance(name, before, after).tolist() == expected

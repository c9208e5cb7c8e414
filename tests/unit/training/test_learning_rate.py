import pytest

from medcli.training.learning_rate import EDT_FLOOR, EDT_STEPS, linear_decay


@pytest.mark.parametrize(("step", "rate"), [(0, 1e-3), (25, 0.75e-3 + 0.25e-4), (100, 1e-4), (1000, 1e-4)])
def test_the_rate_falls_evenly_and_then_stays(step: int, rate: float) -> None:
    assert linear_decay(1e-3, step, floor=1e-4, num_steps=100) == pytest.approx(rate, rel=1e-12)


def test_edts_own_decay_is_the_default() -> None:
    assert linear_decay(1e-4, 200_000) == pytest.approx((1e-4 + EDT_FLOOR) / 2)
    assert linear_decay(1e-4, EDT_STEPS) == EDT_FLOOR

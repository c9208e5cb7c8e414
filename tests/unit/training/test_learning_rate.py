import pytest

from medcli.training.learning_rate import cosine_decay, linear_decay, warmup_factor


@pytest.mark.parametrize(("step", "rate"), [(0, 1e-3), (25, 0.75e-3 + 0.25e-4), (100, 1e-4), (1000, 1e-4)])
def test_the_rate_falls_evenly_and_then_stays(step: int, rate: float) -> None:
    assert linear_decay(1e-3, step, floor=1e-4, num_steps=100) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 1e-3), (25, 8.681980515339464e-4), (50, 5.5e-4), (100, 1e-4), (150, 1e-4)]
)
def test_the_cosine_falls_to_its_floor(step: int, rate: float) -> None:
    assert cosine_decay(1e-3, step, floor=1e-4, num_steps=100) == pytest.approx(rate, rel=1e-12)


def test_the_warm_up_rises_from_its_first_step() -> None:
    assert [warmup_factor(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup_factor(0, 0) == 1

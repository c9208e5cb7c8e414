import numpy as np
import pytest
import torch
from torch import Tensor

from medcli.diffusion.steps import build_sampler
from medcli.engine.generate import generate
from medcli.engine.networks import Guidance, ladder_networks
from medcli.engine.observer import Distances, Observer, StepRows
from medcli.engine.plan import FinishedImage, Labels, SamplingPlan
from medcli.errors import ConfigError
from medcli.schedule.spec import FULL, DistanceName, Schedule
from medcli.settings.sampler import SamplerConfig
from tests.unit.engine.tiny import LADDER, RHO, model_of

NUM_IMAGES, STEPS = 8, 14


def plan_of(schedule: Schedule, **settings: object) -> SamplingPlan:
    values = {
        "sampler": SamplerConfig(steps=STEPS),
        "labels": Labels(classes=tuple(range(10))),
        "seed": 3,
        "batch_size": 3,
        **settings,
    }
    return SamplingPlan(schedule=schedule, **values)  # type: ignore[arg-type]


def make(plan: SamplingPlan, observer: Observer | None) -> dict[int, FinishedImage]:
    networks = ladder_networks(model_of(), plan.schedule.counts)
    return {image.index: image for image in generate(networks, plan, range(NUM_IMAGES), observer=observer)}


class Notes:
    """Keeps all it is told."""

    def __init__(self) -> None:
        self.told: list[StepRows] = []
        self.states: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.order: list[str] = []

    def before(self, rows: StepRows) -> None:
        self.told.append(rows)
        self.order.append("before")

    def after(self, rows: StepRows, before_BCYX: Tensor, after_BCYX: Tensor) -> None:
        assert rows is self.told[-1]
        assert len(rows.index_B) == len(before_BCYX) == len(after_BCYX)
        self.order.append("after")
        for index, step, before, after in zip(
            rows.index_B.tolist(), rows.step_B.tolist(), before_BCYX, after_BCYX, strict=True
        ):
            assert (index, step) not in self.states, "padding was shown, or a step twice"
            self.states[index, step] = (before.clone(), after.clone())


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.7)])
def test_an_observer_sees_every_step_of_every_image_once_and_changes_nothing(interval: tuple[float, float]) -> None:
    plan = plan_of(
        Schedule(kind="dynamic", counts=LADDER, rho=RHO), guidance=Guidance(scale=2.0, channels=None, interval=interval)
    )
    notes = Notes()
    seen, plain = make(plan, notes), make(plan, None)
    for index, image in plain.items():
        assert torch.equal(image.latent_CYX, seen[index].latent_CYX)
        assert image.switch_steps == seen[index].switch_steps
    num_steps = build_sampler(plan.sampler).num_steps
    assert set(notes.states) == {(index, step) for index in range(NUM_IMAGES) for step in range(num_steps)}
    assert notes.order == ["before", "after"] * len(notes.told)
    for index in range(NUM_IMAGES):
        for step in range(1, num_steps):
            assert torch.equal(notes.states[index, step][0], notes.states[index, step - 1][1])
        assert torch.equal(notes.states[index, num_steps - 1][1], plain[index].latent_CYX)
    # Where an image stands on the ladder is told as well.
    entries = {
        (index, step): rows.ladder_index
        for rows in notes.told
        for index, step in zip(rows.index_B.tolist(), rows.step_B.tolist(), strict=True)
    }
    moved = [index for index, image in plain.items() if image.switch_steps]
    assert moved
    for index in moved:
        first = plain[index].switch_steps[0]
        assert entries[index, first] == 0 < entries[index, first + 1]


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_noted_distances_are_those_the_rule_decides_by(name: DistanceName) -> None:
    schedule = Schedule(kind="dynamic", counts=LADDER, rho=RHO, distance=name)
    plan = plan_of(schedule)
    sampler = build_sampler(plan.sampler)
    noted = Distances(range(NUM_IMAGES), sampler.num_steps)
    images = make(plan, noted)
    rule, moved = schedule.rule(), set()
    for index, image in images.items():
        state, moves = rule.start(), list[int]()
        for step in range(1, min(sampler.num_observed, sampler.num_steps - 1)):
            before, state = state.index, rule.observe(state, float(noted.distance_IL[name][index, step]))
            moves += [step] * (state.index - before)
        assert tuple(moves) == image.switch_steps
        moved.add(image.switch_steps)
    assert len(moved) > 1, "the thresholds of this test should part the images"
    assert not np.isnan(noted.distance_IL[name]).any()


def test_distances_go_by_image_number_not_by_place() -> None:
    plan = plan_of(FULL)
    networks = ladder_networks(model_of(), FULL.counts)
    num_steps = build_sampler(plan.sampler).num_steps
    whole, part = Distances(range(NUM_IMAGES), num_steps), Distances([5, 2], num_steps)
    list(generate(networks, plan, range(NUM_IMAGES), observer=whole))
    list(generate(networks, plan, [5, 2], observer=part))
    np.testing.assert_allclose(part.distance_IL["l1"], whole.distance_IL["l1"][[5, 2]], rtol=1e-5)


def test_a_solver_without_steps_of_its_own_is_refused() -> None:
    plan = plan_of(FULL, sampler=SamplerConfig(sampler="ode", solver="dopri5"))
    with pytest.raises(ConfigError, match="none to observe"):
        make(plan, Notes())

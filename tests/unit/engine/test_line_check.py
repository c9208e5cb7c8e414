"""Lines are compared with the plan they came from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from medcli.engine.cost import image_gmacs, pass_gmacs
from medcli.engine.image_records import Record, file_name
from medcli.engine.line_check import CHUNK, LineCheck
from medcli.engine.networks import Guidance
from medcli.engine.plan import Labels
from medcli.schedule.spec import Schedule
from medcli.settings.sampler import SamplerConfig
from tests.unit.engine.test_generate import images_of, plan_of
from tests.unit.engine.tiny import LADDER, PIXELS, model_of

TIMED = Schedule(kind="timed", counts=LADDER, at=(0.3, 0.6))
PLANS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "random labels": {"labels": Labels(classes=(3, 5, 5), sampling="random"), "seed": 7},
    "guided in part": {"guidance": Guidance(scale=2.0, interval=(0.2, 0.7), channels=None)},
    "heun": {"sampler": SamplerConfig(sampler="ode", solver="heun", steps=6), "schedule": TIMED},
    "multistep": {"sampler": SamplerConfig(sampler="ode", solver="adams3", steps=8), "schedule": TIMED},
}


def test_labels_are_those_of_the_image_numbers_however_large() -> None:
    plan = plan_of(labels=Labels(classes=(3, 5, 9), sampling="random"), seed=7)
    check = LineCheck(plan, [pass_gmacs(PIXELS, count) for count in PIXELS.mediators])
    for index in (0, CHUNK - 1, CHUNK, 3 * CHUNK + 17):
        assert check._label(index) == plan.labels.of(7, torch.tensor([index])).item()


@pytest.mark.parametrize("name", PLANS)
def test_lines_of_a_run_are_possible_and_changed_ones_are_not(name: str) -> None:
    plan, costs = plan_of(**PLANS[name]), [pass_gmacs(PIXELS, count) for count in PIXELS.mediators]
    check = LineCheck(plan, costs)
    for image in images_of(model_of(), plan, range(9)).values():
        record = Record(
            index=image.index,
            label=image.label,
            file=file_name(image.index),
            switch_steps=image.switch_steps,
            gmacs=float(f"{image_gmacs(image.passes, costs):.9g}"),
        )
        assert check.is_possible(record)
        assert not check.is_possible(replace(record, label=record.label + 1))
        assert not check.is_possible(replace(record, gmacs=record.gmacs * 1.001))
        for moves in ((*record.switch_steps, 1, 1, 1), (10**6,), (5, 2)):
            assert not check.is_possible(replace(record, switch_steps=moves))

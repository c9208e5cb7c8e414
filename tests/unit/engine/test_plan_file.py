import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcli.diffusion.multistep import MultistepRows, multistep_rows
from medcli.engine.generate import generate
from medcli.engine.networks import Guidance, ladder_networks
from medcli.engine.plan import SamplingPlan
from medcli.engine.plan_file import PlanFile, follow, plan_file, read_plan, write_plan
from medcli.errors import ConfigError
from medcli.schedule.spec import FULL, Schedule, static
from medcli.settings.sampler import SamplerConfig
from tests.unit.engine.test_generate import ALL, DIT
from tests.unit.engine.tiny import LADDER, PIXELS, RHO, model_of

ADAMS = SamplerConfig(sampler="ode", solver="adams3", steps=8)
TIMED = Schedule(kind="timed", counts=(4, 16, 0), at=(0.25, 0.7))
HALF = Guidance(scale=2.0, channels=None, interval=(0.5, 1.0))

PLANS = {
    "adams, timed, guided in part": {"sampler": ADAMS, "schedule": TIMED, "guidance": HALF},
    "exponential, dynamic": {
        "sampler": SamplerConfig(solver="exp2", steps=8),
        "schedule": Schedule(kind="dynamic", counts=LADDER, rho=RHO),
    },
    "heun, full": {"sampler": SamplerConfig(sampler="ode", solver="heun", steps=5), "schedule": FULL},
    "sde with its last step": {
        "sampler": SamplerConfig(steps=6),
        "schedule": static(4),
        "guidance": Guidance(scale=3.0),
    },
}
GAUSSIAN = {
    "ddpm": SamplerConfig(sampler="ddpm", steps=6),
    "ddim": SamplerConfig(sampler="ddim", steps=6),
    "multistep": SamplerConfig(sampler="ddim", solver="multistep3", steps=6, grid="logsnr"),
}


def plan_of(**parts: Any) -> SamplingPlan:
    return SamplingPlan(**{"schedule": FULL, "labels": ALL, "batch_size": 3, "seed": 5, **parts})


def through_a_file(plan: SamplingPlan, path: Path, config: Any = PIXELS) -> SamplingPlan:
    write_plan(path, plan_file(plan, config))
    made = follow(read_plan(path), path, config, {})
    return replace(plan, sampler=made.sampler, rows=made.rows, schedule=made.schedule, guidance=made.guidance)


def latents(plan: SamplingPlan, config: Any = PIXELS) -> dict[int, Any]:
    networks = ladder_networks(model_of(config), plan.schedule.counts)
    return {image.index: image for image in generate(networks, plan, range(4))}


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_file_makes_the_same_images_bit_for_bit(case: str, tmp_path: Path) -> None:
    plan = plan_of(**PLANS[case])
    again = through_a_file(plan, tmp_path / "plan.json")
    expected, images = latents(plan), latents(again)
    for index, image in expected.items():
        assert torch.equal(images[index].latent_CYX, image.latent_CYX)
        assert images[index].passes == image.passes
        assert images[index].switch_steps == image.switch_steps
    assert plan_file(again, PIXELS) == plan_file(plan, PIXELS)


@pytest.mark.parametrize("case", GAUSSIAN)
def test_plans_of_models_with_integer_timesteps(case: str, tmp_path: Path) -> None:
    plan = plan_of(sampler=GAUSSIAN[case], schedule=static(4), guidance=HALF)
    expected, images = latents(plan, DIT), latents(through_a_file(plan, tmp_path / "plan.json", DIT), DIT)
    assert all(torch.equal(images[index].latent_CYX, image.latent_CYX) for index, image in expected.items())


def test_the_cost_of_a_plan_is_the_sum_over_its_steps() -> None:
    plan = plan_of(**PLANS["adams, timed, guided in part"])
    file = plan_file(plan, PIXELS)
    assert file.networks == (4, 4, 16, 16, 16, 16, "full", "full")
    assert file.guidance is not None
    assert file.guidance.by_step == (False,) * 4 + (True,) * 4
    by_count = dict.fromkeys(plan.schedule.counts, 0)
    for network, is_guided in zip(file.networks, file.guidance.by_step, strict=True):
        by_count[0 if network == "full" else int(network)] += 1 + is_guided
    assert latents(plan)[0].passes == tuple(by_count.values())


def test_rows_of_its_own_are_followed(tmp_path: Path) -> None:
    exact = multistep_rows(ADAMS)
    weights = replace(exact.weights, weight_LJ=exact.weights.weight_LJ * 0.9)
    plan = plan_of(sampler=ADAMS, rows=MultistepRows(exact.time_L, weights))
    again = through_a_file(plan, tmp_path / "plan.json")
    assert again.rows is not None
    assert np.array_equal(again.rows.weights.weight_LJ, weights.weight_LJ)
    assert torch.equal(latents(again)[0].latent_CYX, latents(plan)[0].latent_CYX)
    assert not torch.allclose(latents(plan)[0].latent_CYX, latents(plan_of(sampler=ADAMS))[0].latent_CYX)


def test_times_without_rows_are_those_of_an_uneven_grid(tmp_path: Path) -> None:
    values = plan_file(plan_of(sampler=replace(ADAMS, steps=3)), PIXELS).to_json()
    values |= {"times": [0.0, 0.2, 0.6], "rows": None, "sha256": None}
    (tmp_path / "plan.json").write_text(json.dumps(values))
    made = follow(read_plan(tmp_path / "plan.json"), tmp_path / "plan.json", PIXELS, {})
    assert made.rows is not None
    assert made.rows.weights.weight_LJ.sum(axis=1) == pytest.approx([0.2, 0.4, 0.4])


def changed(**parts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.update(parts)


def put(name: str, place: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        values[name][place] = value

    return change


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "falling times": (put("times", 3, 0.01), "rise"),
    "equal times": (put("times", 3, 0.25), "rise"),
    "a time beyond 1": (put("times", 7, 1.5), r"\[0, 1\]"),
    "a text as a time": (put("times", 7, "x"), "times"),
    "a missing step": (changed(networks=[4] * 7), "networks has 7 steps, times has 8"),
    "guidance of fewer steps": (
        changed(guidance={"scale": 2.0, "channels": 3, "by_step": [True] * 7}),
        "guidance has 7 steps, times has 8",
    ),
    "full attention first": (put("networks", 0, "full"), "end a ladder"),
    "falling networks": (put("networks", 7, 4), "end a ladder"),
    "no square": (changed(networks=[5] * 8), "square"),
    "another word": (put("networks", 7, "dense"), "networks"),
    "an unknown key": (changed(extra=1), "extra"),
    "another version": (changed(medcli_plan=2), "medcli_plan"),
    "another family": (changed(family="dit"), "plan for a dit model"),
    "no such family": (changed(family="unet"), "unet"),
    "other channels": (changed(channels=4), "4 channels"),
    "a solver of another sampler": (changed(sampler={"sampler": "ode", "solver": "exp2"}), "solver"),
    "other steps": (changed(sampler={"sampler": "ode", "solver": "adams3", "steps": 9}), "9 steps, times has 8"),
    "rows of a solver without": (changed(sampler={"sampler": "ode", "solver": "heun", "steps": 9}), "multistep"),
    "a row short of weights": (lambda values: values["rows"][2]["weights"].pop(), "numbers of weights"),
    "no weights": (lambda values: [row.update(weights=[]) for row in values["rows"]], "0 weights, expected 1 to"),
    "a memory of gigabytes": (lambda values: [row.update(weights=[0.0] * 99) for row in values["rows"]], "99 weights"),
    "guidance in two parts": (lambda values: values["guidance"]["by_step"].__setitem__(5, False), "one run"),
    "a negative scale": (lambda values: values["guidance"].update(scale="much"), "scale"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plan_that_cannot_be_followed_is_refused(fault: str, tmp_path: Path) -> None:
    path, (change, words) = tmp_path / "plan.json", FAULTS[fault]
    values = plan_file(plan_of(**PLANS["adams, timed, guided in part"]), PIXELS).to_json()
    values["sha256"] = None
    follow(written(path, values), path, PIXELS, {})
    change(values)
    with pytest.raises(ConfigError, match=words):
        follow(written(path, values), path, PIXELS, {})


def test_rows_do_not_excuse_times_between_timesteps(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    values = plan_file(plan_of(sampler=GAUSSIAN["multistep"], schedule=static(4)), DIT).to_json()
    values |= {"times": [time - 0.5 * (place == 2) for place, time in enumerate(values["times"])], "sha256": None}
    with pytest.raises(ConfigError, match="whole timesteps"):
        follow(written(path, values), path, DIT, {})


def written(path: Path, values: dict[str, Any]) -> PlanFile:
    path.write_text(json.dumps(values))
    return read_plan(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(number: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    values = plan_file(plan_of(sampler=ADAMS), PIXELS).to_json()
    values["rows"][1]["noise"] = 123.456
    path.write_text(json.dumps(values).replace("123.456", number))
    with pytest.raises(ConfigError, match="not a plan"):
        read_plan(path)


def test_a_plan_that_was_changed_by_hand_says_so(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, plan_file(plan_of(sampler=ADAMS), PIXELS))
    path.write_text(path.read_text().replace('"full"', "4", 1).replace('"full"', "4"))
    with pytest.raises(ConfigError, match="sha256"):
        read_plan(path)


def test_a_model_of_another_path_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, plan_file(plan_of(sampler=ADAMS), PIXELS))
    with pytest.raises(ConfigError, match="path linear, this one has gvp"):
        follow(read_plan(path), path, PIXELS, {"path": "gvp"})


def test_another_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("mine")
    with pytest.raises(ConfigError):
        write_plan(path, plan_file(plan_of(sampler=ADAMS), PIXELS))
    assert path.read_text() == "mine"

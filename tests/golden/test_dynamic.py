"""The dynamic rule and whole step-wise runs against the reference sampler (golden kind 6)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from medcli.config import ModelConfig
from medcli.diffusion.steps import build_sampler
from medcli.engine.batched_rule import distance
from medcli.engine.generate import generate
from medcli.engine.networks import Guidance, LadderNetwork, guided, ladder_networks
from medcli.engine.plan import Labels, SamplingPlan
from medcli.model.backbone import DiffusionTransformer, empty_model
from medcli.schedule.dynamic import DynamicSchedule
from medcli.schedule.spec import Schedule
from medcli.settings.sampler import SamplerConfig

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "dynamic_rule/cases.json").read_text())
SAMPLING = json.loads((DATA / "dynamic_sampling/runs.json").read_text())
DISTANCES = {"mae": "l1", "mse": "l2"}
LADDER = (1, 4, 16)


@pytest.fixture(scope="module")
def rule_tensors() -> dict[str, Tensor]:
    return load_file(DATA / "dynamic_rule/cases.safetensors")


@pytest.fixture(scope="module")
def run_tensors() -> dict[str, Tensor]:
    return load_file(DATA / "dynamic_sampling/runs.safetensors")


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_rule_switches_exactly_where_the_reference_does(case: dict[str, Any], rule_tensors: dict[str, Tensor]) -> None:
    states = rule_tensors[f"{case['id']}.states"]
    rule = DynamicSchedule(ladder=LADDER, rho=(case["rho1"], case["rho2"]), warmup_steps=case["first_several_num"])
    state = rule.start()
    used, moves = [], []
    for step in range(len(states)):
        used.append(state.index + 1)
        if step > 0:
            # The reference averages over its whole batch, so its batch is one image here.
            moved = distance(
                DISTANCES[case["distance"]], states[step - 1].flatten()[None], states[step].flatten()[None]
            )
            before, state = state.index, rule.observe(state, moved.item())
            moves += [step] * (state.index - before)
    assert used == case["used"]
    assert state.index + 1 == case["active_after_last"]
    assert moves == [step for step in (case["switch_to_2_at"], case["switch_to_3_at"]) if step is not None]


def recorded_models() -> dict[int, DiffusionTransformer]:
    settings = dict(SAMPLING["base_model"])
    models = {}
    for count in LADDER:
        config = ModelConfig(
            family="sit",
            latent_size=settings["input_size"],
            patch_size=settings["patch_size"],
            in_channels=settings["in_channels"],
            hidden_size=settings["hidden_size"],
            depth=settings["depth"],
            num_heads=settings["num_heads"],
            num_classes=settings["num_classes"],
            learn_sigma=settings["learn_sigma"],
            mediators=(count,),
            mediator_layers=tuple(range(settings["depth"])),
        )
        models[count] = empty_model(config)
        models[count].load_state_dict(load_file(DATA / f"dynamic_sampling/weights_n{count}.safetensors"), assign=True)
    return models


@pytest.fixture(scope="module")
def networks() -> tuple[LadderNetwork, ...]:
    return ladder_networks(recorded_models(), LADDER)


def sampler_of(run: dict[str, Any]) -> SamplerConfig:
    return SamplerConfig(steps=run["num_steps"], diffusion_form=run["form"])


SINGLE = [run for run in SAMPLING["runs"] if run["batch"] == 1]


@pytest.mark.parametrize("run", SINGLE, ids=[run["name"] for run in SINGLE])
def test_engine_reproduces_recorded_runs(
    run: dict[str, Any], networks: tuple[LadderNetwork, ...], run_tensors: dict[str, Tensor]
) -> None:
    initial, recorded = run_tensors[f"{run['name']}.z"], run_tensors[f"{run['name']}.noise"]
    plan = SamplingPlan(
        sampler=sampler_of(run),
        schedule=Schedule(
            kind="dynamic",
            counts=LADDER,
            rho=(run["rho1"], run["rho2"]),
            warmup_steps=run["K"],
            distance=DISTANCES[run["distance"]],  # type: ignore[arg-type]
        ),
        labels=Labels(classes=tuple(run["y"])),
        batch_size=1,
    )

    def noise(index_B: Tensor, draw_B: Tensor) -> Tensor:
        draw = int(draw_B[0])
        return initial if draw == 0 else recorded[draw - 1]

    (image,) = generate(networks, plan, [0], noise=noise)
    assert image.switch_steps == (run["switch_to_2_at"], run["switch_to_3_at"])
    used = run["network_used_per_evaluation"]
    assert image.calls == tuple(used.count(network) for network in (1, 2, 3))
    expected = run_tensors[f"{run['name']}.xs"][-1, 0]
    assert (image.latent_CYX - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("run", SAMPLING["runs"], ids=[run["name"] for run in SAMPLING["runs"]])
def test_batch_wide_rule_of_the_reference_is_the_rule_on_batch_means(
    run: dict[str, Any], networks: tuple[LadderNetwork, ...], run_tensors: dict[str, Tensor]
) -> None:
    """The reference decides for a whole batch; fed with the batch's distance, our parts make its run."""
    x_BCYX, recorded = run_tensors[f"{run['name']}.z"], run_tensors[f"{run['name']}.noise"]
    states, label_B = run_tensors[f"{run['name']}.xs"], torch.tensor(run["y"])
    rule = DynamicSchedule(ladder=LADDER, rho=(run["rho1"], run["rho2"]), warmup_steps=run["K"])
    sampler, state, used = build_sampler(sampler_of(run)), rule.start(), []
    for step in range(sampler.num_steps):
        used.append(state.index + 1)
        predict = guided(networks[state.index], label_B, Guidance())
        noise = recorded[step] if sampler.takes_noise(step) else None
        with torch.no_grad():
            next_BCYX = sampler.step(predict, x_BCYX, torch.full((run["batch"],), step), noise)
        if 1 <= step < sampler.num_observed:
            moved = distance(DISTANCES[run["distance"]], x_BCYX, next_BCYX).mean().item()
            assert moved == pytest.approx(run["diffs"][step], rel=1e-5)
            state = rule.observe(state, moved)
        x_BCYX = next_BCYX
        assert (x_BCYX - states[step]).abs().max() <= 1e-5 * states[step].abs().max()
    assert used == run["network_used_per_evaluation"]

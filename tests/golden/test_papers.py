"""The papers' code as `bench_papers.py` times it reproduces their recorded tensors and images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from medcli.engine.plan import Labels, SamplingPlan
from medcli.schedule.spec import Schedule
from papers_loop import CALLS_A_STEP, papers_loop
from papers_network import PapersNetwork
from tests.golden.test_dynamic import DATA, DISTANCES, LADDER, SINGLE, recorded_models, sampler_of
from tests.golden.test_models import NETWORKS, assert_close, load_network

SIGMA_RUNS = [run for run in SINGLE if run["form"] == "sigma"]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_papers_network_equals_the_reference(name: str) -> None:
    model, io, settings = load_network(name)
    papers = PapersNetwork(model.state_dict(), model.config, model.config.resolve_count(None))
    assert_close(papers(io["x"], io["t"], io["y"]), io["out"], settings)


@pytest.mark.parametrize("run", SIGMA_RUNS, ids=[run["name"] for run in SIGMA_RUNS])
def test_the_papers_loop_makes_the_recorded_images_with_the_recorded_moves(run: dict[str, Any]) -> None:
    tensors = load_file(DATA / "dynamic_sampling/runs.safetensors")
    rho, distance = (run["rho1"], run["rho2"]), DISTANCES[run["distance"]]
    schedule = Schedule(kind="dynamic", counts=LADDER, rho=rho, warmup_steps=run["K"], distance=distance)  # type: ignore[arg-type]
    plan = SamplingPlan(sampler=sampler_of(run), schedule=schedule, labels=Labels(classes=tuple(run["y"])))
    networks = [PapersNetwork(model.state_dict(), model.config, count) for count, model in recorded_models().items()]

    def noise(index_B: Tensor, draw_B: Tensor) -> Tensor:
        return tensors[f"{run['name']}.z"] if not draw_B else tensors[f"{run['name']}.noise"][int(draw_B) - 1]

    (image,) = papers_loop(networks, plan, [0], noise=noise)
    assert image.switch_steps == (run["switch_to_2_at"], run["switch_to_3_at"])
    used = run["network_used_per_evaluation"]
    assert image.calls == tuple(CALLS_A_STEP * used.count(network) for network in (1, 2, 3))
    expected = tensors[f"{run['name']}.xs"][-1, 0]
    assert (image.latent_CYX - expected).abs().max() <= 1e-5 * expected.abs().max()

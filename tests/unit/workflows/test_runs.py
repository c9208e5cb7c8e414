"""Sample folders on a page."""

from __future__ import annotations

import pytest

from medcli.engine.networks import Guidance
from medcli.schedule.spec import Schedule
from medcli.settings.sampler import SamplerConfig
from medcli.workflows.image_cost import SamplingRun
from medcli.workflows.report.runs import SampledRun


@pytest.mark.parametrize(
    ("guidance", "passes"), [(Guidance(), 1), (Guidance(scale=2.0), 2), (Guidance(scale=2.0, interval=(0.5, 1.0)), 2)]
)
def test_the_papers_cost_is_guided_throughout_if_the_run_is(guidance: Guidance, passes: int) -> None:
    sampler = SamplerConfig(sampler="ode", solver="euler", steps=9)
    run = SamplingRun(schedule=Schedule(kind="full", counts=(0,)), sampler=sampler, guidance=guidance, moves={(): 4})
    dense = {"totals": {"gmacs_dense": 3.0 * (8 + (guidance.is_on and (4 if guidance.is_partial else 8)))}}
    shown = SampledRun(name="s", manifest=dense, run=run, num_promised=4, pictures=(), command=None, sha256="")
    assert shown.papers_gmacs == pytest.approx(250 * passes * 3.0)

"""Sampling runs as a timed group: the papers' 250 steps of full attention beside plans of fewer calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from medcli.diffusion.steps import build_sampler
from medcli.engine.cost import done_gmacs, pass_gmacs
from medcli.engine.fine_path import final_latents, fine_latents, fine_plan, follows_path, relative_errors
from medcli.engine.generate import generate
from medcli.engine.networks import LadderNetwork
from medcli.engine.plan import FAMILY_SAMPLERS, FinishedImage, SamplingPlan
from medcli.network import Network
from medcli.schedule.spec import FULL
from medcli.settings.costs import BenchRequest
from medcli.settings.sampler import PAPER_STEPS, SamplerSettings
from medcli.settings.sampling import SampleRequest
from medcli.workflows.bench.variants import DENSE, TimedVariant
from medcli.workflows.sample.defaults import sampling_defaults
from medcli.workflows.sample.few_calls import with_few_calls
from medcli.workflows.sample.plan import choose_sampler, make_plan

BASELINE = "baseline"
"""Full attention with the papers' sampler and number of steps."""
PLAN = "plan"
"""A plan that is compared with it."""
NUM_CALLS = 12
"""Network calls of a plan where neither flags nor checkpoint name any."""
MEASURED_GMACS = {"cpu": 1e3}
"""Most GMACs of a run that is timed from start to end; of a longer one, as many steps as the plans have are timed."""
MEASURED_GMACS_ELSEWHERE = 1e6


@dataclass(frozen=True, slots=True)
class NamedPlan:
    """A plan and its name for people."""

    name: str
    plan: SamplingPlan


def plans_of(request: BenchRequest, network: Network, batch_size: int) -> list[NamedPlan]:
    """Return the plans to time beside the papers': those of the plan files, else the one that the settings describe.

    Args:
        request: Settings; flags come first, then the checkpoint's defaults.
        batch_size: Number of images of a network call.

    Raises:
        ConfigError: If the settings contradict each other or the ladder.
    """
    ladder = network.config.mediators
    if not request.plans:
        plan = make_plan(_asked(request, network), [network], ladder, batch_size)
        return [NamedPlan(plan_name(plan), plan)]
    return [
        NamedPlan(str(path), make_plan(replace(request.sampling, plan=path), [network], ladder, batch_size))
        for path in request.plans
    ]


def _asked(request: BenchRequest, network: Network) -> SampleRequest:
    """Fill in what neither flags nor checkpoint say: few calls, the ladder by progress up to full attention."""
    asked, defaults, config = request.sampling, sampling_defaults(network), network.config
    rungs = request.settings.network.mediators or config.mediators
    is_open = not (asked.schedule or asked.at or asked.rho)
    if is_open and "schedule" not in defaults:
        rungs = rungs if 0 in rungs else (*rungs, 0)
        shares = tuple(round(place / len(rungs), 2) for place in range(1, len(rungs)))
        asked = replace(asked, schedule="timed", at=shares) if shares else replace(asked, schedule="full")
    if asked.schedule == "timed" or asked.at or asked.schedule == "dynamic" or asked.rho:
        asked = replace(asked, mediators=rungs)
    is_dynamic = asked.schedule == "dynamic" or asked.rho is not None
    if asked.sampler is None and "sampler" not in defaults and not is_dynamic:
        asked = with_few_calls(asked, config, NUM_CALLS)
    return asked if asked.cfg_scale is not None else replace(asked, cfg_scale=defaults.get("cfg_scale", 1.0))


def baseline_of(plan: SamplingPlan, network: Network) -> SamplingPlan:
    """Return the papers' sampling of the same images: full attention, their sampler, 250 steps, guidance throughout."""
    asked = SamplerSettings(sampler=FAMILY_SAMPLERS[network.config.family][0], steps=PAPER_STEPS)
    sampler = choose_sampler(asked, network.config, sampling_defaults(network))
    return replace(
        plan, sampler=sampler, rows=None, schedule=FULL, guidance=replace(plan.guidance, interval=(0.0, 1.0))
    )


def plan_name(plan: SamplingPlan) -> str:
    """Return a short name: mediator counts and network calls."""
    counts, calls = plan.schedule.counts, build_sampler(plan.sampler).nfe
    return f"{','.join(str(count or 'full') for count in counts)}, {calls:g} calls"


def loop_variants(
    networks: Mapping[int, LadderNetwork],
    plans: Sequence[NamedPlan],
    baseline: SamplingPlan,
    num_images: int,
    *,
    device: torch.device,
    dtype: str,
    compiled: bool,
) -> list[TimedVariant]:
    """List the sampling runs: the papers', full attention with the calls of a single plan, and the plans.

    Args:
        networks: The network at each count, 0 for full attention.
        plans: How to sample.
        baseline: The papers' way.
        dtype: Name of the networks' number format.
        compiled: True: the networks are compiled.
    """
    how: dict[str, Any] = {"device": device, "dtype": dtype, "compiled": compiled}
    timed = baseline
    if run_gmacs(networks[0], baseline, num_images) > longest_run(device):
        fewest = min(build_sampler(each.plan.sampler).num_steps for each in plans)
        timed = replace(baseline, sampler=replace(baseline.sampler, steps=max(2, min(PAPER_STEPS, fewest))))
    scale = PAPER_STEPS / timed.sampler.steps
    made = [loop_variant(networks, BASELINE, NamedPlan(f"full, {PAPER_STEPS} steps", timed), num_images, scale, **how)]
    if len(plans) == 1 and plans[0].plan.schedule != FULL:
        dense = replace(plans[0].plan, schedule=FULL)
        made.append(loop_variant(networks, DENSE, NamedPlan(plan_name(dense), dense), num_images, **how))
    return [*made, *(loop_variant(networks, PLAN, each, num_images, **how) for each in plans)]


def loop_variant(
    networks: Mapping[int, LadderNetwork],
    kind: str,
    named: NamedPlan,
    num_images: int,
    scale: float = 1.0,
    *,
    device: torch.device,
    dtype: str,
    compiled: bool,
) -> TimedVariant:
    """Build one sampling run; see `loop_variants`.

    Args:
        networks: The network at each count.
        kind: `baseline`, `dense` or `plan`.
        named: How to sample.
        scale: Cost of all steps over that of the plan's.
        dtype: Name of the networks' number format.
        compiled: True: the networks are compiled.
    """
    plan, config = named.plan, networks[0].config
    counts = plan.schedule.counts
    used = [networks[count] for count in counts]

    def run() -> Sequence[FinishedImage]:
        return list(generate(used, plan, range(num_images), device=device))

    return TimedVariant(
        name=kind,
        title=named.name,
        mediators=tuple(count for count in counts if count),
        num_images=num_images,
        dtype=dtype,
        compiled=compiled,
        gmacs_per_call=tuple(pass_gmacs(config, count) for count in counts),
        executed_per_call=tuple(done_gmacs(config, count) for count in counts),
        run=run,
        plan=plan,
        scale=scale,
    )


def longest_run(device: torch.device) -> float:
    """Return the most GMACs of a run that is timed from start to end."""
    return MEASURED_GMACS.get(device.type, MEASURED_GMACS_ELSEWHERE)


def run_gmacs(dense: LadderNetwork, plan: SamplingPlan, num_images: int) -> float:
    """Return the GMACs of a run of full attention, guidance included."""
    calls = build_sampler(plan.sampler).nfe * plan.guidance.num_halves
    return calls * pass_gmacs(dense.config, 0) * num_images


def error_measure(
    dense: LadderNetwork, plans: Sequence[SamplingPlan], num_images: int, device: torch.device
) -> Callable[[TimedVariant, Sequence[FinishedImage]], float | None]:
    """Return a function from a variant and its images to their mean relative distance to the exact path.

    The exact path is that of full attention from the same noise under the same guidance. It is integrated once for all
    plans that share it. The function returns None for samplers with noise, and where the exact path would take longer
    than what is timed.

    Args:
        dense: The network with full attention.
        plans: Plans of the variants.
    """
    exact: list[tuple[SamplingPlan, Tensor]] = []
    for plan in plans:
        if not follows_path(plan.sampler):
            continue
        fine = fine_plan(plan)
        is_known = any(fine == known for known, _ in exact)
        if not is_known and run_gmacs(dense, fine, num_images) <= longest_run(device):
            exact.append((fine, fine_latents(dense, plan, range(num_images), device=device)))

    def error(variant: TimedVariant, images: Sequence[FinishedImage]) -> float | None:
        if variant.plan is None or not follows_path(variant.plan.sampler):
            return None
        fine = fine_plan(variant.plan)
        known = next((latent for each, latent in exact if each == fine), None)
        return None if known is None else float(relative_errors(final_latents(images), known).mean())

    return error

"""Plan of a sampling run with its cost, measured time and disk space: `medcli sample --dry-run`. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from medcli.data.latent_space import autoencoder_place
from medcli.diffusion.steps import build_sampler
from medcli.engine.generate import calls_by_ladder_index
from medcli.engine.guidance_phases import step_passes
from medcli.engine.image_records import num_lines
from medcli.engine.manifest import image_bytes
from medcli.engine.networks import LadderNetwork, ladder_networks
from medcli.engine.plan import forward_inputs
from medcli.errors import EnvironmentProblem
from medcli.network import note_remarks
from medcli.runtime.device import use_device
from medcli.runtime.json_records import json_fields
from medcli.runtime.precision import DTYPES, number_format, products_of
from medcli.runtime.processes import this_process
from medcli.runtime.reporting import Reporter
from medcli.runtime.timing import Clock, clock_for
from medcli.settings.sampler import ADAPTIVE_SOLVERS
from medcli.settings.sampling import SampleRequest
from medcli.workflows.image_cost import SamplingRun, possible_moves
from medcli.workflows.sample.report import FolderRun
from medcli.workflows.sample.settings import SampleSetup, model_name, set_up

REPEATS = 2
"""Timed network calls at each ladder index; the faster one counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplePlan:
    """A run and its cost. Values with `_min` and `_max` differ where the dynamic schedule decides by the image."""

    output: str
    model: str
    resolution_px: int
    schedule: str
    mediators: tuple[int, ...]
    """Mediator count of each ladder index, 0 for full attention."""
    rho: tuple[float, ...]
    sampler: str
    solver: str
    num_images: int
    """Images in the folder in the end."""
    num_missing: int
    """Images to generate."""
    batch_size: int
    device: str
    dtype: str
    nfe: int | None
    """Network calls of an image; None: an adaptive solver chooses."""
    gmacs_per_image_min: float | None
    gmacs_per_image_max: float | None
    gmacs_dense: float | None
    """The same image with full attention in every block."""
    seconds_min: float | None
    """Time of the network calls of all missing images in one process; decoding is not included."""
    seconds_max: float | None
    disk_bytes: int
    """Space of the missing images and the archive."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"dry_run": True, **json_fields(self)}


def plan_sample(request: SampleRequest, reporter: Reporter, *, clock: Clock | None = None) -> SamplePlan:
    """Set up a run, time a network call at each ladder index and scale it to the run.

    Args:
        clock: Replaces the device's clock.

    Raises:
        MedcliError: For settings that would stop the run; the folder and the autoencoder are not opened.
    """
    device = use_device(request.device, this_process())
    request = replace(request, dtype=number_format(request.dtype, device))
    setup = set_up(request, device.type)
    note_remarks(setup.networks, reporter)
    _note_missing_autoencoder(setup, reporter)
    plan, run = setup.plan, FolderRun.of(setup)
    num_missing = max(0, request.num_images - num_lines(setup.output))
    batch_size = max(1, min(plan.batch_size, num_missing))
    passes = None if plan.sampler.solver in ADAPTIVE_SOLVERS else _passes(setup)
    gmacs = seconds = None
    if passes is not None:
        measure = partial(_pass_seconds, setup, request, batch_size, device)
        secs = measure(clock or clock_for(device, torch.get_num_threads()))
        gmacs = [_weighted(each, run.costs.per_pass) for each in passes]
        seconds = [num_missing * _weighted(each, secs) for each in passes]
    info = setup.networks[0].opened.info
    return SamplePlan(
        output=str(setup.output),
        model=model_name(info),
        resolution_px=setup.config.resolution_px,
        schedule=plan.schedule.kind,
        mediators=plan.schedule.counts,
        rho=plan.schedule.rho,
        sampler=plan.sampler.sampler,
        solver=plan.sampler.solver,
        num_images=request.num_images,
        num_missing=num_missing,
        batch_size=batch_size,
        device=str(device),
        dtype=request.dtype,
        nfe=None if passes is None else build_sampler(plan.sampler, rows=plan.rows).nfe,
        gmacs_per_image_min=None if gmacs is None else min(gmacs),
        gmacs_per_image_max=None if gmacs is None else max(gmacs),
        gmacs_dense=None if passes is None else sum(passes[0]) * run.costs.dense,
        seconds_min=None if seconds is None else round(min(seconds), 3),
        seconds_max=None if seconds is None else round(max(seconds), 3),
        disk_bytes=image_bytes(setup.output, request.num_images, setup.config.resolution_px, archive=request.npz),
    )


def _note_missing_autoencoder(setup: SampleSetup, reporter: Reporter) -> None:
    """Warn of an autoencoder that is not on this machine: the run would be refused."""
    name = setup.networks[0].autoencoder or setup.config.autoencoder
    if name is None:
        return
    try:
        autoencoder_place(name)
    except EnvironmentProblem as err:
        reporter.warn(f"{err.message}; {err.hint}")


def _weighted(counts: Sequence[int], values: Sequence[float]) -> float:
    return sum(count * value for count, value in zip(counts, values, strict=True))


def _passes(setup: SampleSetup) -> list[tuple[int, ...]]:
    """Return the forward passes at each ladder index of an image, or of the slowest and the fastest to move."""
    plan = setup.plan
    sampler = build_sampler(plan.sampler, rows=plan.rows)
    passes_L = step_passes(sampler, plan.guidance)
    moves = possible_moves(SamplingRun(schedule=plan.schedule, sampler=plan.sampler, guidance=plan.guidance), sampler)
    return [tuple(calls_by_ladder_index(passes_L, made, len(plan.schedule.counts))) for made in moves]


@torch.no_grad()
def _pass_seconds(
    setup: SampleSetup, request: SampleRequest, batch_size: int, device: torch.device, clock: Clock
) -> list[float]:
    """Return the seconds of a forward pass of one image at each ladder index, as part of a batch."""
    dtype, counts = DTYPES[request.dtype], setup.plan.schedule.counts
    models = [network.load(device=device, dtype=dtype, amm=setup.amm) for network in setup.networks]
    by_count = dict(zip(counts, models, strict=True)) if request.stages else dict.fromkeys(counts, models[0])
    size = batch_size * setup.plan.guidance.num_halves

    def call(network: LadderNetwork) -> Callable[[], object]:
        return partial(network.forward, *forward_inputs(network, size, device))

    found = list[float]()
    with products_of(request.dtype):
        for network in ladder_networks(by_count, counts):
            work = call(network)
            work()  # warms up
            found.append(min(clock.time(work).wall_seconds for _ in range(REPEATS)) / size)
    return found

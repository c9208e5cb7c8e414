"""Measure what a network really takes: forward passes against full attention, the engine against the papers' loop."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medcli.engine.plan import SamplingPlan
from medcli.runtime.memory import MIB
from medcli.runtime.precision import DTYPES
from medcli.runtime.reporting import Reporter
from medcli.runtime.timing import Clock, clock_for, thread_limit
from medcli.runtime.versions import versions
from medcli.workflows.bench.loops import Agreement, LoopContest, LoopSettings, agreement, loop_plan
from medcli.workflows.bench.rows import BenchRow, VariantTiming, measure, rows_of
from medcli.workflows.bench.settings import BenchSettings, Circumstances
from medcli.workflows.bench.subject import Subject
from medcli.workflows.bench.variants import ForwardContest, TimedVariant, networks_by_count, unabsorbed_networks
from medcli.workflows.sample.settings import default_batch_size

CPU_BATCH = 4
"""Images of a batch on a CPU where none are named: a default run takes about a minute on one thread."""
FORWARD_UNTIMED = 2
"""Runs before a network call is timed: one may compile, and what that takes is not the memory of the next."""
LOOP_UNTIMED = 1
"""Runs before a loop is timed; its networks are warm by then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRequest:
    """What to measure, and how."""

    settings: BenchSettings
    loop: LoopSettings
    """The sampling runs; none with 0 steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport(Circumstances):
    """What every variant took, and where."""

    steps: int
    """Solver steps of the loops."""
    rho: tuple[float, ...]
    """Thresholds of the loops."""
    weights_mib: float
    """Memory of the model's weights."""
    rows: tuple[BenchRow, ...]
    agreement: Agreement | None
    """Between the engine's images and the papers' loop's; None without loops."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, units in the names."""
        names = ("model", "resolution_px", "num_tokens", "depth", "batch_size", "steps", "repeats", "clock", "device")
        values = {name: getattr(self, name) for name in (*names, "machine", "threads", "dtype", "compiled")}
        return {
            **values,
            "layers": list(self.layers),
            "rho": list(self.rho),
            "weights_mib": self.weights_mib,
            "versions": versions(),
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "rows": [row.to_json() for row in self.rows],
        }


def bench(request: BenchRequest, reporter: Reporter, *, clock: Clock | None = None) -> BenchReport:
    """Measure forward passes and, of a SiT model, sampling runs.

    Variants of a group take turns, after each has run untimed; the weights are on the device before.

    Args:
        request: What to measure.
        reporter: Is told about runs done, and what is left out.
        clock: Replaces the device's clock.

    Raises:
        ConfigError: If the preset is unknown or values contradict each other or the model.
        CheckpointError: If the checkpoint is missing, damaged or not of these families.
        EnvironmentProblem: If the device is not there, or nothing to compile with.
    """
    settings = request.settings
    subject, device = settings.prepare(reporter)
    batch_size = settings.batch_size or _batch_size(subject, device)
    plan = loop_plan(subject.config, request.loop, batch_size)
    if request.loop.steps and plan is None:
        reporter.note("forward passes only: the papers' step-wise loop is for SiT models")
    with thread_limit(settings.num_threads) as threads:
        return _report(request, subject, plan, batch_size, device, clock or clock_for(device, threads), reporter)


def _report(
    request: BenchRequest,
    subject: Subject,
    plan: SamplingPlan | None,
    batch_size: int,
    device: torch.device,
    clock: Clock,
    reporter: Reporter,
) -> BenchReport:
    """Load the weights, measure, and say where it was."""
    settings = request.settings
    weights_mib, groups = _groups(request, subject, plan, batch_size, device)
    rows, agreed = _measure(groups, settings.repeats, clock, device, reporter)
    return BenchReport(
        model=subject.name,
        resolution_px=subject.config.resolution_px,
        num_tokens=subject.config.num_tokens,
        layers=subject.config.mediator_layers,
        depth=subject.config.depth,
        batch_size=batch_size,
        steps=request.loop.steps if plan else 0,
        rho=plan.schedule.rho if plan else (),
        repeats=settings.repeats,
        clock=clock.name,
        device=str(device),
        machine=machine_name(device),
        threads=torch.get_num_threads(),
        dtype=settings.dtype,
        compiled=settings.compiled,
        weights_mib=weights_mib,
        rows=rows,
        agreement=agreed,
    )


def _batch_size(subject: Subject, device: torch.device) -> int:
    usual = default_batch_size(subject.config, device.type)
    return min(CPU_BATCH, usual) if device.type == "cpu" else usual


@dataclass(frozen=True, slots=True)
class _Group:
    """Variants that take turns."""

    name: str
    variants: Sequence[TimedVariant]
    untimed: int
    """Runs of each before it is timed."""

    def num_runs(self, repeats: int) -> int:
        return len(self.variants) * (self.untimed + repeats)


def _groups(
    request: BenchRequest, subject: Subject, plan: SamplingPlan | None, batch_size: int, device: torch.device
) -> tuple[float, list[_Group]]:
    """Load the weights: how many MiB they take, and what is to be measured with them."""
    settings = request.settings
    model = subject.load().to(device)
    plain_weights = dict(model.state_dict())  # stays float32, whatever becomes of the model
    model = model.to(DTYPES[settings.dtype])
    networks = networks_by_count(model, compiled=settings.compiled)
    unabsorbed = unabsorbed_networks(model, compiled=settings.compiled)
    forwards = ForwardContest(
        networks=networks,
        unabsorbed=unabsorbed,
        plain_weights=None if model.config.has_relative_bias else plain_weights,
        batch_size=batch_size,
        device=device,
        dtype=settings.dtype,
        compiled=settings.compiled,
    )
    groups = [_Group("forward", forwards.variants(), FORWARD_UNTIMED)]
    if plan is not None:
        contest = LoopContest(
            networks=networks,
            plain_weights=plain_weights,
            plan=plan,
            num_images=request.loop.num_images or batch_size,
            device=device,
            dtype=settings.dtype,
            compiled=settings.compiled,
        )
        groups.append(_Group("loop", contest.variants(), LOOP_UNTIMED))
    return sum(parameter.nbytes for parameter in model.parameters()) / MIB, groups


def _measure(
    groups: Sequence[_Group], repeats: int, clock: Clock, device: torch.device, reporter: Reporter
) -> tuple[tuple[BenchRow, ...], Agreement | None]:
    """The rows of all groups, and how far the engine agrees with the papers' loop."""
    num_runs, done = sum(group.num_runs(repeats) for group in groups), itertools.count(1)
    rows, seen = list[BenchRow](), list[VariantTiming]()
    for group in groups:
        seen = measure(
            group.variants,
            untimed=group.untimed,
            repeats=repeats,
            clock=clock,
            device=device,
            after_run=lambda: reporter.progress(next(done), num_runs, "runs"),
        )
        rows += rows_of(group.name, seen)
    # The last group's last two are the engine and the papers' loop, where there are loops.
    return tuple(rows), agreement(seen[-2].images, seen[-1].images) if len(groups) > 1 else None


def machine_name(device: torch.device, cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """What the device is called by its maker, as far as the system tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()

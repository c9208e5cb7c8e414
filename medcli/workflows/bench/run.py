"""Measure forward passes at each mediator count against full attention, and sampling runs of the engine."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medcli.errors import ConfigError
from medcli.model.backbone import random_model
from medcli.network import Network, note_remarks, open_network
from medcli.runtime.compilation import require_compiler
from medcli.runtime.device import use_device
from medcli.runtime.json_records import json_fields
from medcli.runtime.memory import MIB
from medcli.runtime.precision import DTYPES, number_format, products_of, warn_if_slow
from medcli.runtime.reporting import Reporter
from medcli.runtime.timing import Clock, clock_for, thread_limit
from medcli.runtime.versions import versions
from medcli.settings.build import given_in
from medcli.settings.costs import BenchRequest, BenchSettings
from medcli.settings.declare import settings_of
from medcli.settings.sampling import SampleRequest
from medcli.settings.values import check_values
from medcli.workflows.bench.loops import NamedPlan, baseline_of, error_measure, loop_variants, plans_of
from medcli.workflows.bench.rows import BenchRow, ErrorOf, measure, no_error, rows_of
from medcli.workflows.bench.variants import TimedVariant, forward_variants, networks_by_count, unabsorbed_networks
from medcli.workflows.sample.plan import default_batch_size

BENCH = "medcli-bench"
"""Kind of the report, for pages."""
DEFAULT_MODEL = "SiT-S/2"
"""Small enough for a laptop, and a size that the papers' tables give for every variant."""
CPU_BATCH = 4
"""Default batch size on a CPU, at which a default run takes about a minute on one thread."""
FORWARD_UNTIMED = 2
"""Warm-up runs of a network call: the first may compile, and compiling takes memory that the next does not."""
LOOP_UNTIMED = 1
"""Warm-up runs of a sampling run; its networks are warm by then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport:
    """Measurements of every variant, and the circumstances."""

    model: str
    resolution_px: int
    num_tokens: int
    layers: tuple[int, ...]
    """Blocks with mediators."""
    depth: int
    """Number of blocks."""
    batch_size: int
    repeats: int
    clock: str
    """`thread_cpu`: CPU time of the one thread; `wall`; `wall_synchronised`: wall between device synchronisations."""
    device: str
    machine: str
    threads: int
    dtype: str
    compiled: bool
    weights_mib: float
    """Memory of the model's weights."""
    rows: tuple[BenchRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, units in the names."""
        return {"kind": BENCH, **json_fields(self), "versions": versions()}


def bench(request: BenchRequest, reporter: Reporter, *, clock: Clock | None = None) -> BenchReport:
    """Measure forward passes, and sampling runs beside the papers' 250 steps of full attention.

    Variants of a group are timed in interleaved rounds, after each has run untimed with its weights on the device.

    Args:
        reporter: Notified of finished runs and of omissions.
        clock: Replaces the device's clock.

    Raises:
        ConfigError: If the preset is unknown or values contradict each other or the model.
        CheckpointError: If the checkpoint is missing, damaged or not of these families.
        EnvironmentProblem: If the device or a compiler is missing.
    """
    settings = request.settings
    network, device, settings = prepare(settings, reporter)
    request = replace(request, settings=settings)
    note_remarks([network], reporter)
    batch_size = settings.batch_size or _batch_size(network, device)
    plans = [] if _only_calls(request) else plans_of(request, network, batch_size)
    with thread_limit(settings.num_threads) as threads, products_of(settings.dtype):
        return _report(request, network, plans, batch_size, device, clock or clock_for(device, threads), reporter)


def _only_calls(request: BenchRequest) -> bool:
    """Return True if no sampling runs are wanted.

    Raises:
        ConfigError: If settings of such runs are given beside `--steps 0`.
    """
    if request.sampling.steps != 0 or request.plans:
        return False
    of_runs = {*settings_of(SampleRequest), "num_images"} - {"steps"}
    idle = next((key for key in given_in(request) if key in of_runs - {*settings_of(BenchSettings)}), None)
    if idle is not None:
        flag = settings_of(BenchRequest)[idle].flag
        raise ConfigError(f"{flag} does nothing with --steps 0", hint=f"leave {flag} out, or give the number of steps")
    return True


def prepare(settings: BenchSettings, reporter: Reporter) -> tuple[Network, torch.device, BenchSettings]:
    """Find the network, the device and its number format, which is set in the settings; no weights are read yet.

    Raises:
        ConfigError: If the preset is unknown, or values contradict each other or the model.
        CheckpointError: If the checkpoint is missing, damaged or not of these families.
        EnvironmentProblem: If the device or a compiler is missing.
    """
    check_values(settings)
    device = use_device(settings.device)
    settings = replace(settings, dtype=number_format(settings.dtype, device))
    warn_if_slow(DTYPES[settings.dtype], device, reporter)
    if settings.compiled:
        require_compiler(device)
    counts = settings.network.mediators
    source = replace(settings.network, mediators=counts and tuple(filter(None, counts)))
    network = open_network(source, default=DEFAULT_MODEL, add_mediators=True, fresh=random_model)
    return network, device, settings


def _report(
    request: BenchRequest,
    network: Network,
    plans: Sequence[NamedPlan],
    batch_size: int,
    device: torch.device,
    clock: Clock,
    reporter: Reporter,
) -> BenchReport:
    """Load the weights, measure, and collect the circumstances."""
    settings, config = request.settings, network.config
    weights_mib, groups = _groups(request, network, plans, batch_size, device)
    rows = _measure(groups, settings.repeats, clock, device, reporter)
    return BenchReport(
        model=network.name,
        resolution_px=config.resolution_px,
        num_tokens=config.num_tokens,
        layers=config.mediator_layers,
        depth=config.depth,
        batch_size=batch_size,
        repeats=settings.repeats,
        clock=clock.name,
        device=str(device),
        machine=machine_name(device),
        threads=torch.get_num_threads(),
        dtype=settings.dtype,
        compiled=settings.compiled,
        weights_mib=weights_mib,
        rows=rows,
    )


def _batch_size(network: Network, device: torch.device) -> int:
    usual = default_batch_size(network.config, device.type)
    return min(CPU_BATCH, usual) if device.type == "cpu" else usual


@dataclass(frozen=True, slots=True)
class _Group:
    """Variants that are timed in interleaved rounds."""

    name: str
    variants: Sequence[TimedVariant]
    untimed: int
    """Number of warm-up runs of each."""
    error: ErrorOf = no_error
    """Distance of a variant's images to their exact path."""

    def num_runs(self, repeats: int) -> int:
        return len(self.variants) * (self.untimed + repeats)


def _groups(
    request: BenchRequest, network: Network, plans: Sequence[NamedPlan], batch_size: int, device: torch.device
) -> tuple[float, list[_Group]]:
    """Load the weights; return their size in MiB and the groups to measure."""
    settings = request.settings
    model = network.load(dtype=torch.float32).to(device, DTYPES[settings.dtype])
    networks = networks_by_count(model, compiled=settings.compiled)
    unabsorbed = unabsorbed_networks(model, compiled=settings.compiled)
    how: dict[str, Any] = {"device": device, "dtype": settings.dtype, "compiled": settings.compiled}
    groups = [_Group("forward", forward_variants(networks, unabsorbed, batch_size=batch_size, **how), FORWARD_UNTIMED)]
    if plans:
        num_images = request.num_images or batch_size
        baseline = baseline_of(plans[0].plan, network)
        variants = loop_variants(networks, plans, baseline, num_images, **how)
        # Random weights have a path, but no images whose distance to it would mean anything.
        measured = [] if network.info is None else [each.plan for each in plans]
        error = error_measure(networks[0], measured, num_images, device)
        groups.append(_Group("loop", variants, LOOP_UNTIMED, error))
    return sum(parameter.nbytes for parameter in model.parameters()) / MIB, groups


def _measure(
    groups: Sequence[_Group], repeats: int, clock: Clock, device: torch.device, reporter: Reporter
) -> tuple[BenchRow, ...]:
    """Measure all groups."""
    num_runs, done = sum(group.num_runs(repeats) for group in groups), itertools.count(1)
    rows: list[BenchRow] = []
    for group in groups:
        measured = measure(
            group.variants,
            untimed=group.untimed,
            repeats=repeats,
            clock=clock,
            device=device,
            after_run=lambda: reporter.progress(next(done), num_runs, "runs"),
        )
        rows += rows_of(group.name, measured, group.error)
    return tuple(rows)


def machine_name(device: torch.device, cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the vendor's name of the device, as far as the system reports it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()

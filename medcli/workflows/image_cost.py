"""Cost of whole images, of a planned run or of a recorded one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcli.config import ModelConfig
from medcli.cost.macs import saving_percent
from medcli.data.images import MANIFEST, read_manifest
from medcli.diffusion.multistep import MultistepRows
from medcli.diffusion.steps import Sampler, build_sampler
from medcli.engine.cost import done_gmacs, gmacs_of_moves, pass_gmacs
from medcli.engine.guidance_phases import num_passes, step_passes
from medcli.engine.image_records import RECORDS, Record, read_records
from medcli.engine.networks import Guidance
from medcli.engine.plan_file import PlanFile, solver_rows
from medcli.errors import ConfigError, DataError
from medcli.runtime.json_records import InvalidJson, as_record, json_fields
from medcli.schedule.spec import Schedule
from medcli.settings.sampler import ADAPTIVE_SOLVERS, SamplerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingRun:
    """Settings of a run that decide its cost."""

    schedule: Schedule
    sampler: SamplerConfig
    guidance: Guidance
    rows: MultistepRows | None = None
    """Rows of a multistep solver from a plan file; None: its own."""
    moves: Mapping[tuple[int, ...], int] | None = None
    """Number of images of a recorded run by their `switch_steps`; None: planned."""
    measured_nfe: float | None = None
    """Network calls of an image of a recorded run; None: planned."""
    checkpoint_files: tuple[str, ...] = ()
    """Names of the checkpoints of a recorded run."""

    @property
    def num_images(self) -> int | None:
        """Images of a recorded run; None: planned."""
        return None if self.moves is None else sum(self.moves.values())

    def solver(self) -> Sampler:
        """Build the solver, if it does not choose its own steps."""
        return build_sampler(self.sampler, rows=self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCost:
    """Cost of an image over all its network calls."""

    resolution_px: int
    schedule: str
    """`full`, `static` or `dynamic`."""
    mediators: tuple[int, ...]
    """Mediator count at each ladder index; empty: full attention."""
    nfe: float
    """Number of network calls; the two halves of guidance are one call."""
    passes_per_call: int
    """Number of forward passes of a call: 2 with guidance, else 1."""
    basis: str
    """`exact`: known in advance; `bounds`: depends on the images, only limits are known; `trace`: mean over a run."""
    num_images: int | None
    """Number of images of the recorded run; None: planned."""
    gmacs: float | None
    """GMACs in the papers' convention; None: only limits are known."""
    gmacs_min: float
    """Minimum with `bounds`: the image stays at the first ladder index."""
    gmacs_max: float
    """Maximum with `bounds`: the image reaches the last ladder index as early as the rule allows."""
    gmacs_done: float | None
    """GMACs executed (`medcli.engine.cost.done_gmacs`); None: only limits are known."""
    gmacs_done_min: float
    gmacs_done_max: float
    gmacs_dense: float
    """GMACs of the same calls with full attention in every block."""

    @property
    def saving_percent(self) -> float | None:
        """Percent of the dense cost saved; negative if mediators cost more; None: only limits are known."""
        return None if self.gmacs is None else saving_percent(self.gmacs, self.gmacs_dense)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**json_fields(self), "saving_percent": self.saving_percent}


def image_cost(run: SamplingRun, config: ModelConfig) -> ImageCost:
    """Compute the cost of an image.

    Args:
        config: The network, its ladder holding the schedule's counts.

    Raises:
        ConfigError: If the solver is adaptive and no run is recorded.
    """
    counts = run.schedule.counts
    costs, costs_done = ([cost(config, count) for count in counts] for cost in (pass_gmacs, done_gmacs))
    if run.sampler.solver in ADAPTIVE_SOLVERS:
        nfe = _measured_nfe(run)
        passes = nfe * run.guidance.num_halves
        moves: Mapping[tuple[int, ...], int] = {(): 1}
        gmacs, done = [passes * costs[0]], [passes * costs_done[0]]
    else:
        sampler = run.solver()
        nfe, passes = sampler.nfe, num_passes(sampler, run.guidance)
        passes_L, moves = step_passes(sampler, run.guidance), possible_moves(run, sampler)
        gmacs, done = (gmacs_of_moves(passes_L, list(moves), each) for each in (costs, costs_done))
    is_open = run.schedule.is_dynamic and run.moves is None
    return ImageCost(
        resolution_px=config.resolution_px,
        schedule=run.schedule.kind,
        mediators=tuple(count for count in counts if count),
        nfe=nfe,
        passes_per_call=run.guidance.num_halves,
        basis="bounds" if is_open else "exact" if run.moves is None else "trace",
        num_images=run.num_images,
        gmacs=None if is_open else _mean(gmacs, moves),
        gmacs_min=min(gmacs),
        gmacs_max=max(gmacs),
        gmacs_done=None if is_open else _mean(done, moves),
        gmacs_done_min=min(done),
        gmacs_done_max=max(done),
        gmacs_dense=passes * pass_gmacs(config, 0),
    )


def _mean(gmacs: Sequence[float], moves: Mapping[tuple[int, ...], int]) -> float:
    """Average over images the costs of their moves."""
    weighted = (cost * count for cost, count in zip(gmacs, moves.values(), strict=True))
    return math.fsum(weighted) / sum(moves.values())


def _measured_nfe(run: SamplingRun) -> float:
    if run.measured_nfe is None:
        raise ConfigError(
            f"--solver {run.sampler.solver} chooses its own steps, so the calls are not known beforehand",
            hint="use --solver heun, or --manifest of a run that was made",
        )
    return run.measured_nfe


def possible_moves(run: SamplingRun, sampler: Sampler) -> Mapping[tuple[int, ...], int]:
    """Return the moves of the recorded images, else those of the cheapest and the most expensive image."""
    if run.moves is not None:
        return run.moves
    if run.schedule.is_timed:
        return {run.schedule.timed_moves(sampler.num_steps): 1}
    return {(): 1, **({earliest_moves(run.schedule, sampler): 1} if run.schedule.is_dynamic else {})}


def earliest_moves(schedule: Schedule, sampler: Sampler) -> tuple[int, ...]:
    """Return the first steps at which an image can move, as if it stopped changing after the warm-up.

    Args:
        schedule: A dynamic schedule.
    """
    rule = schedule.rule()
    state, moves = rule.start(), list[int]()
    for step in range(1, sampler.num_observed):
        before, is_warming = state.index, state.observed < schedule.warmup_steps
        state = rule.observe(state, 1.0 if is_warming else 0.0)
        moves += [step] * (state.index - before)
    return tuple(moves)


def recorded_run(
    path: Path, num_images: int | None = None, see: Callable[[Record], None] = lambda _record: None
) -> SamplingRun:
    """Read the record of a sampling run, a line at a time.

    Args:
        path: A sample folder or the manifest in it.
        num_images: Number of first images to read; None: all.
        see: Called with each record.

    Raises:
        DataError: If there is no manifest, it is damaged, or no image is finished.
    """
    folder = path.parent if path.name == MANIFEST else path
    manifest = read_manifest(folder)
    if manifest is None:
        raise DataError(f"{folder} holds no {MANIFEST}", hint="give the folder medcli sample wrote")
    moves = _count_moves(folder, num_images, see)
    try:
        values = as_record(_Manifest, manifest, ignore_unknown=True)
        rows = None if values.settings.plan is None else solver_rows(values.settings.plan)
    except (InvalidJson, ConfigError) as err:
        raise DataError(
            f"{folder / MANIFEST} is not a manifest of this version of medcli ({err})",
            hint="make the samples again with medcli sample",
        ) from err
    settings, nfe = values.settings, values.totals.nfe
    _check_moves(folder, moves, settings)
    return SamplingRun(
        schedule=settings.schedule,
        sampler=settings.sampler,
        guidance=settings.guidance or Guidance(),
        rows=rows,
        moves=moves,
        checkpoint_files=tuple(checkpoint.file for checkpoint in settings.checkpoints),
        measured_nfe=nfe if isinstance(nfe, int | float) and 0 <= nfe < math.inf else None,
    )


def _check_moves(folder: Path, moves: Iterable[tuple[int, ...]], settings: _Settings) -> None:
    most, highest = len(settings.schedule.counts) - 1, settings.sampler.steps
    for made in moves:
        if len(made) > most or list(made) != sorted(made) or any(step > highest for step in made):
            raise DataError(
                f"{folder / RECORDS}: switch_steps {list(made)[:4]} do not go with its manifest",
                hint="make the samples again with medcli sample",
            )


def _count_moves(folder: Path, num_images: int | None, see: Callable[[Record], None]) -> Counter[tuple[int, ...]]:
    """Count the images of a folder by their moves, which few numbers tell of a million images."""
    moves = Counter[tuple[int, ...]]()
    for record in read_records(folder):
        # A killed run may leave a torn last line.
        if record is not None and (num_images is None or record.index < num_images):
            moves[record.switch_steps] += 1
            see(record)
    if not moves:
        raise DataError(f"{folder / RECORDS} names no finished image", hint="run the medcli sample command again")
    return moves


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checkpoint:
    file: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Settings:
    schedule: Schedule
    sampler: SamplerConfig
    guidance: Guidance | None
    checkpoints: tuple[_Checkpoint, ...]
    plan: PlanFile | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Totals:
    nfe: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Manifest:
    """Parts of a manifest that decide the cost."""

    settings: _Settings
    totals: _Totals = _Totals()

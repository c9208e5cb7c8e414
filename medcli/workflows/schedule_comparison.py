"""The papers' claim as an experiment: dynamic schedules against static ones at equal cost, with error bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from medcli.checkpoint.reader import describe
from medcli.config import ModelConfig
from medcli.data.assets import BUNDLED_MODEL, asset_path
from medcli.errors import ConfigError
from medcli.runtime.files import write_text
from medcli.runtime.reporting import Reporter
from medcli.tuning.running import mean_and_error
from medcli.workflows.fid.inputs import common_reference, survey, survey_reference
from medcli.workflows.fid.scoring import FidRequest, load_yardstick, measure
from medcli.workflows.image_cost import image_cost, recorded_run
from medcli.workflows.sample.run import sample
from medcli.workflows.sample.settings import SampleRequest
from medcli.workflows.schedule_picture import draw_comparison

RESULT = "comparison.json"
PICTURE = "comparison.png"
SCALES = (0.9, 0.6, 0.3)
"""First thresholds of the dynamic schedules; threshold j is its power j + 1. L2 takes the squares, which move at about
the same steps (docs/schedules.md)."""
FEWEST_IMAGES = 10
"""Fewer can't be scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonRequest:
    """What to compare."""

    checkpoint: Path | None = None
    """None: the bundled digits model. It needs a ladder of at least two counts and a reference to score against."""
    num_images: int = 400
    """Of each schedule and seed."""
    num_seeds: int = 5
    """Repetitions, each with noise and labels of its own."""
    seed: int = 0
    """The first of them."""
    output: Path = Path("schedules")
    """Gets a sample folder a schedule and seed, the result and its picture; the same command again goes on."""
    device: str | None = None
    """None: the best there is."""

    def __post_init__(self) -> None:
        if self.num_images < FEWEST_IMAGES:
            raise ConfigError(f"--num-images must be at least {FEWEST_IMAGES} to be scored, got {self.num_images}")
        if self.num_seeds < 2:
            raise ConfigError(f"--seeds must be at least 2 for error bars, got {self.num_seeds}", hint="try --seeds 5")


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A schedule that is compared."""

    name: str
    kind: str
    """`full`, `static` or `dynamic`."""
    mediators: tuple[int, ...] | None
    rho: tuple[float, ...] | None = None
    distance: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One schedule over all seeds; lists go by seed."""

    variant: Variant
    gmacs: tuple[float, ...]
    """Of an image, in the papers' convention, from the calls really made."""
    gmacs_done: tuple[float, ...]
    """The same without the queries and keys that are absorbed."""
    fid: tuple[float, ...]
    against_static: tuple[float, ...]
    """FID less that of static schedules at the same cost, interpolated linearly between counts; empty for others than
    dynamic ones. Below 0 the dynamic schedule is better."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: the lists, their means and the standard errors of the means."""
        variant = self.variant
        shown: dict[str, Any] = {
            "variant": variant.name,
            "schedule": variant.kind,
            "mediators": list(variant.mediators or ()),
            "rho": list(variant.rho or ()),
            "distance": variant.distance,
        }
        for name in ("gmacs", "gmacs_done", "fid", "against_static"):
            values = getattr(self, name)
            mean, error = mean_and_error(values) if values else (None, None)
            shown |= {name: mean, f"{name}_standard_error": error, f"{name}_by_seed": list(values)}
        return shown


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonReport:
    """The table, and where it stands."""

    output: str
    num_images: int
    seeds: tuple[int, ...]
    reference: str
    outcomes: tuple[Outcome, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": "medcli-schedule-comparison",
            "output": self.output,
            "num_images": self.num_images,
            "seeds": list(self.seeds),
            "reference": self.reference,
            "rows": [outcome.to_json() for outcome in self.outcomes],
        }


def variants_of(ladder: tuple[int, ...]) -> list[Variant]:
    """Full attention, each count, and dynamic schedules of the whole ladder from early to late moves.

    Raises:
        ConfigError: If there is nothing to climb.
    """
    if len(ladder) < 2:
        held = ", ".join(map(str, ladder)) or "none"
        raise ConfigError(
            f"comparing schedules needs a ladder of at least two mediator counts, this checkpoint holds {held}",
            hint="leave CHECKPOINT out for the bundled model, or make a ladder with medcli convert --mediators",
        )
    variants = [Variant(name="dense", kind="full", mediators=None)]
    variants += [Variant(name=f"static {count}", kind="static", mediators=(count,)) for count in ladder]
    for distance, power in (("l1", 1), ("l2", 2)):
        for scale in SCALES:
            rho = tuple(round(scale ** (power * (move + 1)), 4) for move in range(len(ladder) - 1))
            name = f"dynamic {distance} {rho[0]:g}"
            variants.append(Variant(name=name, kind="dynamic", mediators=ladder, rho=rho, distance=distance))
    return variants


def compare_schedules(request: ComparisonRequest, reporter: Reporter) -> ComparisonReport:
    """Sample every schedule with every seed, score all of it, and set dynamic beside static at equal cost.

    All schedules of a seed start from the same noise and labels, so that differences between them vary less than the
    scores themselves.

    Raises:
        MedcliError: As `sample` and `score_samples` do; what has been made stays and the same request goes on.
    """
    checkpoint = request.checkpoint or asset_path(BUNDLED_MODEL)
    config = describe(checkpoint).config
    variants = variants_of(config.mediators)
    seeds = tuple(range(request.seed, request.seed + request.num_seeds))
    runs = [(variant, seed) for seed in seeds for variant in variants]
    costs: dict[tuple[str, int], tuple[float, float]] = {}
    for done, (variant, seed) in enumerate(runs):
        told = _PartOf(reporter, done, len(runs), f"{variant.name}, seed {seed}")
        sample(_sample_request(request, checkpoint, variant, seed), told)
        costs[variant.name, seed] = _costs(_folder(request, variant, seed), request.num_images, config)
    folders = {run: _folder(request, *run) for run in runs}
    fids = _fids(list(folders.values()), request.num_images, reporter)
    scores = {(variant.name, seed): fid for (variant, seed), fid in zip(runs, fids, strict=True)}
    outcomes = tuple(_outcome(variant, variants, seeds, costs, scores) for variant in variants)
    made = ComparisonReport(
        output=str(request.output),
        num_images=request.num_images,
        seeds=seeds,
        reference=common_reference(list(folders.values())),
        outcomes=outcomes,
    )
    write_text(request.output / RESULT, json.dumps(made.to_json(), indent=2, sort_keys=True) + "\n", force=True)
    draw_comparison(request.output / PICTURE, made.to_json())
    return made


def _folder(request: ComparisonRequest, variant: Variant, seed: int) -> Path:
    return request.output / f"seed-{seed}" / variant.name.replace(" ", "-")


def _sample_request(request: ComparisonRequest, checkpoint: Path, variant: Variant, seed: int) -> SampleRequest:
    return SampleRequest(
        num_images=request.num_images,
        checkpoint=checkpoint,
        schedule=variant.kind,
        mediators=variant.mediators,
        rho=variant.rho,
        distance=variant.distance,
        seed=seed,
        device=request.device,
        output=_folder(request, variant, seed),
    )


def _costs(folder: Path, num_images: int, config: ModelConfig) -> tuple[float, float]:
    """GMACs of an image in the papers' convention and as done; of the first images, where an earlier run made more."""
    cost = image_cost(recorded_run(folder, num_images), config)
    assert cost.gmacs is not None  # a run that was made has made its moves
    assert cost.gmacs_done is not None
    return cost.gmacs, cost.gmacs_done


def _fids(folders: Sequence[Path], num_images: int, reporter: Reporter) -> list[float]:
    """FID of the first images of each folder, by one network and one reference."""
    sides = [(folder, survey(folder, num_images)) for folder in folders]
    request = FidRequest(metrics=("fid",))
    reference = survey_reference(common_reference(folders))
    yardstick = load_yardstick(request, reference, sides, reporter)
    found = []
    for _, side in sides:
        fid = measure(yardstick, side, reporter).scores.values["fid"]
        assert fid is not None  # a metric that was asked for is there or raises
        found.append(fid)
    return found


def _outcome(
    variant: Variant,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    costs: dict[tuple[str, int], tuple[float, float]],
    scores: dict[tuple[str, int], float],
) -> Outcome:
    """One row of the table."""
    fixed = [other.name for other in variants if other.kind == "static"]
    against = []
    for seed in seeds if variant.kind == "dynamic" else ():
        line = [(costs[name, seed][0], scores[name, seed]) for name in fixed]
        against.append(scores[variant.name, seed] - interpolated(line, costs[variant.name, seed][0]))
    return Outcome(
        variant=variant,
        gmacs=tuple(costs[variant.name, seed][0] for seed in seeds),
        gmacs_done=tuple(costs[variant.name, seed][1] for seed in seeds),
        fid=tuple(scores[variant.name, seed] for seed in seeds),
        against_static=tuple(against),
    )


def interpolated(line: Sequence[tuple[float, float]], place: float) -> float:
    """Height of a broken line at a place between its ends; at the nearer end beyond them.

    Args:
        line: (place, height) of its corners, places rising.
        place: Where to read it.
    """
    if place <= line[0][0]:
        return line[0][1]
    for (left, low), (right, high) in pairwise(line):
        if place <= right:
            return low + (high - low) * (place - left) / (right - left)
    return line[-1][1]


class _PartOf:
    """Passes on the progress of one run as that of all."""

    def __init__(self, reporter: Reporter, before: int, total: int, title: str) -> None:
        self._reporter, self._before, self._total, self._title = reporter, before, total, title

    def progress(self, done: int, total: int, unit: str) -> None:
        """Pass on whole runs and hundredths of one, in hundredths."""
        self._reporter.progress(100 * self._before + 100 * done // total, 100 * self._total, "hundredths of a run")

    def note(self, text: str) -> None:
        """Pass it on with the run's name."""
        self._reporter.note(f"{self._title}: {text}")

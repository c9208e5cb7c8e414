"""Compare dynamic with static schedules at equal cost: `python docs/scripts/schedule_comparison.py [CHECKPOINT]`.

The output folder gets a sample folder per schedule and seed, `comparison.json` and `comparison.png`. Running the same
command again continues; more images are added to those already there. Results are in docs/dynamic-vs-static.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from medcli.charts.figure import save_png
from medcli.charts.plots import Point, Series, scatter
from medcli.checkpoint.reader import describe
from medcli.config import ModelConfig
from medcli.data.assets import MODEL, asset_path
from medcli.errors import ConfigError, DataError
from medcli.runtime.files import write_text
from medcli.runtime.reporting import Reporter, Silent
from medcli.settings.network import NetworkSource
from medcli.settings.sampling import DistanceName, SampleRequest, ScheduleKind
from medcli.settings.scoring import FeatureOptions, ScoreRequest
from medcli.tuning.running import mean_and_error
from medcli.workflows.fid.inputs import common_reference, survey, survey_reference
from medcli.workflows.fid.scoring import load_yardstick, measure
from medcli.workflows.image_cost import image_cost, recorded_run
from medcli.workflows.report.json_access import Json, number, rows_of, text
from medcli.workflows.report.result_charts import COST_LABELS, ERROR_LABELS, KINDS
from medcli.workflows.sample.run import sample

RESULT = "comparison.json"
PICTURE = "comparison.png"
SCALES = (0.9, 0.6, 0.3)
"""First thresholds of the dynamic schedules; threshold j is its power j + 1. L2 takes the squares, which move at about
the same steps (docs/schedules.md)."""
MIN_IMAGES = 10
MIN_SEEDS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonRequest:
    """Settings of a comparison."""

    checkpoint: Path | None = None
    """None: the bundled model. It needs a ladder of at least two counts and a reference to score against."""
    num_images: int = 400
    """Number of images per schedule and seed."""
    num_seeds: int = 5
    """Number of repetitions, each with its own noise and labels."""
    seed: int = 0
    """First seed."""
    output: Path = Path("schedules")
    """Output folder."""
    device: str | None = None
    """None: the best device available."""

    def __post_init__(self) -> None:
        if self.num_images < MIN_IMAGES:
            raise ConfigError(f"--num-images must be at least {MIN_IMAGES} to be scored, got {self.num_images}")
        if self.num_seeds < MIN_SEEDS:
            raise ConfigError(f"--seeds must be at least {MIN_SEEDS} for error bars, got {self.num_seeds}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSchedule:
    """One of the compared schedules."""

    name: str
    kind: ScheduleKind
    """`full`, `static` or `dynamic`."""
    mediators: tuple[int, ...] | None
    rho: tuple[float, ...] | None = None
    distance: DistanceName | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleResult:
    """Results of one schedule, by seed."""

    variant: ComparedSchedule
    gmacs: tuple[float, ...]
    """GMACs of an image in the papers' convention, from the network calls made."""
    gmacs_done: tuple[float, ...]
    """GMACs executed: without the queries and keys that are absorbed."""
    fid: tuple[float, ...]
    against_static: tuple[float, ...]
    """FID minus that of static schedules at the same cost, interpolated linearly between counts; empty unless dynamic.
    Below 0 the dynamic schedule is better."""

    def to_json(self) -> dict[str, Any]:
        """Return the values, their means and standard errors as plain JSON."""
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
    """Results of all schedules."""

    output: str
    num_images: int
    seeds: tuple[int, ...]
    reference: str
    outcomes: tuple[ScheduleResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "kind": "medcli-schedule-comparison",
            "output": self.output,
            "num_images": self.num_images,
            "seeds": list(self.seeds),
            "reference": self.reference,
            "rows": [outcome.to_json() for outcome in self.outcomes],
        }


def variants_of(ladder: tuple[int, ...]) -> list[ComparedSchedule]:
    """List full attention, each count, and dynamic schedules of the whole ladder from early to late moves.

    Raises:
        ConfigError: If the ladder has fewer than two counts.
    """
    if len(ladder) < 2:
        held = ", ".join(map(str, ladder)) or "none"
        raise ConfigError(
            f"comparing schedules needs a ladder of at least two mediator counts, this checkpoint holds {held}",
            hint="leave CHECKPOINT out for the bundled model, or make a ladder with medcli convert --mediators",
        )
    variants = [ComparedSchedule(name="dense", kind="full", mediators=None)]
    variants += [ComparedSchedule(name=f"static {count}", kind="static", mediators=(count,)) for count in ladder]
    powers: tuple[tuple[DistanceName, int], ...] = (("l1", 1), ("l2", 2))
    for distance, power in powers:
        for scale in SCALES:
            rho = tuple(round(scale ** (power * (move + 1)), 4) for move in range(len(ladder) - 1))
            name = f"dynamic {distance} {rho[0]:g}"
            variants.append(ComparedSchedule(name=name, kind="dynamic", mediators=ladder, rho=rho, distance=distance))
    return variants


def compare_schedules(request: ComparisonRequest, reporter: Reporter) -> ComparisonReport:
    """Sample every schedule with every seed, score the images, and compare dynamic with static at equal cost.

    All schedules of a seed start from the same noise and labels, so that differences between them vary less than the
    scores themselves.

    Raises:
        MedcliError: As `sample` and `score_samples` do. Finished images are kept; the same request continues.
    """
    checkpoint = request.checkpoint or asset_path(f"digits{MODEL}")
    config = describe(checkpoint).config
    variants = variants_of(config.mediators)
    seeds = tuple(range(request.seed, request.seed + request.num_seeds))
    runs = [(variant, seed) for seed in seeds for variant in variants]
    costs: dict[tuple[str, int], tuple[float, float]] = {}
    for variant, seed in runs:
        reporter.note(f"{variant.name}, seed {seed}")
        sample(_sample_request(request, checkpoint, variant, seed), reporter)
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
    title = f"{made.num_images} images, {len(made.seeds)} seeds; bars: one standard error"
    save_png(request.output / PICTURE, comparison_chart(made.to_json()), title=title)
    return made


def comparison_chart(result: Json) -> Callable[[Any], None]:
    """Chart FID against cost: static schedules as a line, dynamic ones by distance, full attention.

    Args:
        result: The content of `comparison.json`; rows without numbers are left out.

    Raises:
        DataError: If no row has numbers.
    """
    groups: dict[tuple[str, str], list[Json]] = {}
    for row in rows_of(result.get("rows")):
        kind, distance = text(row.get("schedule")), text(row.get("distance"))
        if kind in KINDS:
            groups.setdefault((kind, distance), []).append(row)
    series = [
        Series(
            name=KINDS[kind][0] + (f", {distance.upper()}" if distance in get_args(DistanceName) else ""),
            marker="^" if distance == "l2" else KINDS[kind][1],
            points=points,
            kind="line" if kind == "static" else "points",
        )
        for (kind, distance), rows in groups.items()
        if (points := _compared(rows, has_label=kind == "static"))
    ]
    if not series:
        raise DataError("no rows with gmacs and fid", hint="run the comparison again")
    return lambda figure: scatter(figure.subplots(), series, x=COST_LABELS["gmacs"], y=ERROR_LABELS["fid"])


def _compared(rows: Sequence[Json], *, has_label: bool) -> tuple[Point, ...]:
    found = ((row, number(row.get("gmacs")), number(row.get("fid"))) for row in rows)
    points = [
        Point(x=x, y=y, name=text(row.get("variant")), error=number(row.get("fid_standard_error")), has_label=has_label)
        for row, x, y in found
        if x is not None and y is not None
    ]
    return tuple(sorted(points, key=lambda point: point.x))


def _folder(request: ComparisonRequest, variant: ComparedSchedule, seed: int) -> Path:
    return request.output / f"seed-{seed}" / variant.name.replace(" ", "-")


def _sample_request(
    request: ComparisonRequest, checkpoint: Path, variant: ComparedSchedule, seed: int
) -> SampleRequest:
    return SampleRequest(
        num_images=request.num_images,
        network=NetworkSource(checkpoint=checkpoint),
        schedule=variant.kind,
        mediators=variant.mediators,
        rho=variant.rho,
        distance=variant.distance,
        seed=seed,
        device=request.device,
        output=_folder(request, variant, seed),
    )


def _costs(folder: Path, num_images: int, config: ModelConfig) -> tuple[float, float]:
    """Return GMACs of an image, counted and executed, over the first `num_images` of a folder."""
    cost = image_cost(recorded_run(folder, num_images), config)
    assert cost.gmacs is not None  # known for finished runs
    assert cost.gmacs_done is not None
    return cost.gmacs, cost.gmacs_done


def _fids(folders: Sequence[Path], num_images: int, reporter: Reporter) -> list[float]:
    """Compute FID of the first images of each folder with one extractor and one reference."""
    sides = [(folder, survey(folder, num_images)) for folder in folders]
    request = ScoreRequest(metrics=("fid",), features=FeatureOptions(no_cache=True))
    reference = survey_reference(common_reference(folders))
    yardstick = load_yardstick(request, reference, sides, reporter)
    found = []
    for _, side in sides:
        fid = measure(yardstick, side, reporter).scores.values["fid"]
        assert fid is not None  # requested metrics are computed or raise
        found.append(fid)
    return found


def _outcome(
    variant: ComparedSchedule,
    variants: Sequence[ComparedSchedule],
    seeds: Sequence[int],
    costs: dict[tuple[str, int], tuple[float, float]],
    scores: dict[tuple[str, int], float],
) -> ScheduleResult:
    """Build one row of the table."""
    fixed = [other.name for other in variants if other.kind == "static"]
    against = []
    for seed in seeds if variant.kind == "dynamic" else ():
        line = [(costs[name, seed][0], scores[name, seed]) for name in fixed]
        against.append(scores[variant.name, seed] - interpolated(line, costs[variant.name, seed][0]))
    return ScheduleResult(
        variant=variant,
        gmacs=tuple(costs[variant.name, seed][0] for seed in seeds),
        gmacs_done=tuple(costs[variant.name, seed][1] for seed in seeds),
        fid=tuple(scores[variant.name, seed] for seed in seeds),
        against_static=tuple(against),
    )


def interpolated(line: Sequence[tuple[float, float]], place: float) -> float:
    """Interpolate a piecewise linear function; constant beyond its ends.

    Args:
        line: (x, y) of its corners, x rising.
        place: The x to evaluate at.
    """
    if place <= line[0][0]:
        return line[0][1]
    for (left, low), (right, high) in pairwise(line):
        if place <= right:
            return low + (high - low) * (place - left) / (right - left)
    return line[-1][1]


def table(result: Mapping[str, Any]) -> str:
    """Format the rows as a Markdown table."""
    lines = ["| Schedule | rho | GMACs | executed | FID | less static |", "| --- | --- | --- | --- | --- | --- |"]
    for row in result["rows"]:
        rho, less = ", ".join(f"{value:g}" for value in row["rho"]), ""
        if row["against_static"] is not None:
            less = f"{row['against_static']:+.3f} +- {row['against_static_standard_error']:.3f}"
        fid = f"{row['fid']:.3f} +- {row['fid_standard_error']:.3f}"
        lines.append(f"| {row['variant']} | {rho} | {row['gmacs']:.4f} | {row['gmacs_done']:.4f} | {fid} | {less} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """Parse the command line, run the comparison and print its table."""
    parser = argparse.ArgumentParser(description="Compare dynamic with static schedules at equal cost.")
    parser.add_argument("checkpoint", type=Path, nargs="?", help="checkpoint with a ladder (the bundled model)")
    parser.add_argument("--num-images", type=int, default=400, help="per schedule and seed")
    parser.add_argument("--seeds", type=int, default=5, dest="num_seeds", help="repetitions")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--device", help="device (the best available)")
    parser.add_argument("-o", "--output", type=Path, default=Path("schedules"), help="output folder")
    report = compare_schedules(ComparisonRequest(**vars(parser.parse_args(argv))), Silent())
    sys.stdout.write(table(report.to_json()))


if __name__ == "__main__":
    main(sys.argv[1:])

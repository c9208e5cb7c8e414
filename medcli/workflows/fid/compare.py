"""Compare scores of several sample sets and earlier reports, if their protocols agree."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcli.data.images import read_manifest
from medcli.errors import ConfigError, DataError
from medcli.runtime.reporting import Reporter
from medcli.scores.protocol import check_comparable, compared, differences
from medcli.scores.reference import BUNDLED
from medcli.scores.standard_error import Estimate, error_of_difference
from medcli.settings.scoring import METRICS, ScoreRequest
from medcli.workflows.fid.inputs import Side, common_reference, survey, survey_reference
from medcli.workflows.fid.scoring import FID_INFINITY, FidReport, json_key, load_yardstick, measure
from medcli.workflows.report.json_access import number, read_value

LOWER_IS_BETTER = frozenset({"fid", FID_INFINITY, "sfid", "kid"})
"""Metrics for which lower is better."""
SHOWN = tuple(name for metric in METRICS for name in ((metric, FID_INFINITY) if metric == "fid" else (metric,)))
"""Metrics in the order of tables."""
TITLES = {"fid": "FID", FID_INFINITY: "FID, N to infinity", "sfid": "sFID", "is": "IS", "kid": "KID"}
"""Names of metrics for people, where they differ from the key."""
REPORT_SUFFIX = ".json"
"""Suffix of reports of earlier runs among the sets."""
SHOWN_TEXTS = ("reference", "extractor")
"""Keys of a report that tables show."""
BY_METRIC = ("standard_errors", "standard_error_methods", "unavailable")
"""Keys of a report that hold a value for each metric."""
Protocols = Mapping[str, Mapping[str, Any]]
"""Protocols by the name of their set."""
SIGNIFICANT_ERRORS = 2.0
"""Scores that differ by fewer standard errors are not distinguished."""


def title_of(metric: str) -> str:
    """Return a metric's name for people."""
    return TITLES.get(metric, metric)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareReport:
    """Reports of all sets, in the order given."""

    rows: tuple[dict[str, Any], ...]
    """Rows as returned by `FidReport.to_json`."""
    differences: tuple[str, ...]
    """Differences between their protocols; empty unless the comparison was forced."""
    estimates: tuple[Mapping[str, Estimate], ...] = ()
    """Scores by metric with the parts of their errors, for each row; empty for rows of earlier reports."""
    noises: tuple[str | None, ...] = ()
    """Seed, labels and numbers of each row's images; None: unknown."""

    def best(self, metric: str) -> int | None:
        """Return the row with the best value of a metric; None if no row has one."""
        sign = 1 if metric in LOWER_IS_BETTER else -1
        values = {
            place: value for place, row in enumerate(self.rows) if (value := row.get(json_key(metric))) is not None
        }
        return min(values, key=lambda place: sign * values[place], default=None)

    def is_near_best(self, metric: str, place: int) -> bool:
        """Return True if a row's value is within two standard errors of the best."""
        best, key = self.best(metric), json_key(metric)
        if best is None or place == best or self.rows[place].get(key) is None:
            return False
        error = self.error_of_difference(metric, best, place)
        return error is not None and abs(self.rows[best][key] - self.rows[place][key]) <= SIGNIFICANT_ERRORS * error

    def error_of_difference(self, metric: str, first: int, second: int) -> float | None:
        """Return the standard error of the difference of two rows' scores; None if a row has no error.

        Sets that were made from the same noise and labels are paired: their errors partly cancel.
        """
        errors = [self.rows[row].get("standard_errors", {}).get(json_key(metric)) for row in (first, second)]
        if None in errors:
            return None
        if self.is_paired(first, second):
            pair = [self.estimates[row].get(metric) for row in (first, second)]
            if pair[0] is not None and pair[1] is not None:
                return error_of_difference(pair[0], pair[1], is_paired=True)
        return math.hypot(*errors)

    def is_paired(self, first: int, second: int) -> bool:
        """Return True if sample i of both rows was made from the same noise and label, for all i."""
        if max(first, second) >= len(self.noises):
            return False
        sizes = {self.rows[row].get("num_samples") for row in (first, second)}
        return len(sizes) == 1 and self.noises[first] is not None and self.noises[first] == self.noises[second]

    def _from_best(self, metric: str, best: int) -> list[dict[str, Any]]:
        """Return the standard error of each row's difference from the best one."""
        return [
            {
                "standard_error": None if place == best else self.error_of_difference(metric, best, place),
                "is_paired": place != best and self.is_paired(best, place),
            }
            for place in range(len(self.rows))
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the rows, the best of each metric, and the differences."""
        best = {metric: place for metric in SHOWN if (place := self.best(metric)) is not None}
        return {
            "rows": list(self.rows),
            "best": {json_key(metric): self.rows[place]["samples"] for metric, place in best.items()},
            "difference_from_best": {
                json_key(metric): self._from_best(metric, place) for metric, place in best.items()
            },
            "differences": list(self.differences),
        }


def compare_samples(
    sets: Sequence[Path], common: ScoreRequest, reporter: Reporter, *, force: bool = False
) -> CompareReport:
    """Score each set or read its report, and compare them.

    Args:
        sets: Two or more sets as in `ScoreRequest.samples`, or reports of `medcli fid --json`.
        common: Scoring options; its `samples` is ignored.
        force: Show scores even if their protocols differ.

    Raises:
        CheckFailed: If the scores rest on different protocols and `force` is off.
        ConfigError, DataError, EnvironmentProblem: As `score_samples` does, for any of the sets.
    """
    if len(sets) < 2:
        raise ConfigError("--compare needs two or more sets", hint="medcli fid --compare samples/a samples/b")
    for path in sets:
        if str(path) in BUNDLED and not path.exists():
            raise ConfigError(f"{path} is a reference, no sample set", hint=f"name it with --reference {path}")
    read = {path: read_reports(path) for path in sets if path.suffix.lower() == REPORT_SUFFIX}
    sides = {path: survey(path, common.num_images, common.seed) for path in sets if path not in read}
    counted = {str(path): side.num_images for path, side in sides.items()}
    counted |= {name: row["num_samples"] for name, row in _named(read).items()}
    # Check as early as possible: hours of work should not end in a refusal.
    check = _allow_all if force else check_comparable
    check({name: {"num_samples": num} for name, num in counted.items()})
    scored = _scored(common, sides, read, check, reporter) if sides else {}
    rows = [
        row
        for path in sets
        for row in (map(with_numbers, read.get(path, ())) if path in read else [scored[path].to_json()])
    ]
    measured = [scored.get(path) for path in sets for _ in read.get(path, (None,))]
    protocols = {f"{row['samples']} (set {place})": compared(row) for place, row in enumerate(rows, 1)}
    check(protocols)
    found = differences(protocols)
    for difference in found:
        reporter.warn(f"shown by --force, but not comparable: {difference}")
    return CompareReport(
        rows=tuple(rows),
        differences=tuple(found),
        estimates=tuple({} if report is None else report.scores.errors for report in measured),
        noises=tuple(_noise_of(path, sides.get(path)) for path in sets for _ in read.get(path, (None,))),
    )


def _noise_of(samples: Path, side: Side | None) -> str | None:
    """Return what decides the initial noise and the label of each scored image of a sample folder; None: unknown."""
    if side is None or side.source is None:
        return None
    try:
        manifest = read_manifest(samples if samples.is_dir() else samples.parent) or {}
    except DataError:
        return None
    settings = manifest.get("settings")
    if not isinstance(settings, Mapping) or not {"seed", "labels"} <= set(settings):
        return None
    # Parts of folders of different sizes hold different images.
    numbers = hashlib.sha256(repr([*side.source.places]).encode()).hexdigest()
    return json.dumps([settings["seed"], settings["labels"], numbers], sort_keys=True)


def _allow_all(_protocols: Protocols) -> None:
    """Accept scores of any protocols."""


def _named(read: Mapping[Path, Sequence[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the rows of all reports, under unique names."""
    return {
        str(path) if len(rows) == 1 else f"{path} (row {place})": row
        for path, rows in read.items()
        for place, row in enumerate(rows, 1)
    }


def _scored(
    common: ScoreRequest,
    sides: Mapping[Path, Side],
    read: Mapping[Path, list[dict[str, Any]]],
    check: Callable[[Protocols], None],
    reporter: Reporter,
) -> dict[Path, FidReport]:
    name = common.reference or common_reference(list(sides))
    yardstick = load_yardstick(common, survey_reference(name), list(sides.items()), reporter)
    earlier = {name: compared(row) for name, row in _named(read).items()}
    check({"this run": yardstick.protocol, **earlier})
    return {path: measure(yardstick, side, reporter) for path, side in sides.items()}


def with_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report with scores and errors that are numbers or None."""
    errors = row.get("standard_errors")
    scores = {key: number(row[key]) for key in map(json_key, SHOWN) if key in row}
    known = {key: number(value) for key, value in errors.items()} if isinstance(errors, Mapping) else {}
    return {**row, **scores, "standard_errors": known}


def read_reports(path: Path) -> list[dict[str, Any]]:
    """Read the output of `medcli fid --json`: one report, or the rows of a comparison.

    Raises:
        DataError: If the file is missing or holds something else.
    """
    content = read_value(path)
    rows = content.get("rows", [content]) if isinstance(content, dict) else []
    is_list = isinstance(rows, list) and bool(rows)
    if not (is_list and all(isinstance(row, dict) and isinstance(row.get("samples"), str) for row in rows)):
        raise DataError(f"{path} is no report of medcli fid", hint="write it with medcli fid ... --json")
    for row in rows:
        try:
            compared(row)
        except DataError as err:
            raise DataError(f"{path}: {err.message}", hint=err.hint) from err
        if nameless := [key for key in SHOWN_TEXTS if not isinstance(row.get(key), str)]:
            raise DataError(f"{path}: {nameless[0]} is not a text", hint="write it with medcli fid ... --json")
        if type(row["num_samples"]) is not int:
            raise DataError(f"{path}: num_samples is no whole number", hint="write it with medcli fid ... --json")
        if wrong := [key for key in BY_METRIC if not isinstance(row.get(key, {}), dict)]:
            raise DataError(f"{path}: {wrong[0]} is no object", hint="write it with medcli fid ... --json")
    return rows

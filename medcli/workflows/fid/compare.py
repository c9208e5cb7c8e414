"""Compare scores of several sample sets and earlier reports, if their protocols agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcli.errors import ConfigError, DataError
from medcli.runtime.reporting import Reporter
from medcli.scores.protocol import check_comparable, compared, differences
from medcli.scores.reference import BUNDLED
from medcli.scores.scores import METRICS
from medcli.settings.scoring import ScoreRequest
from medcli.workflows.fid.inputs import Side, common_reference, survey, survey_reference
from medcli.workflows.fid.scoring import FID_INFINITY, json_key, load_yardstick, measure
from medcli.workflows.report.json_access import number, read_value

LOWER_IS_BETTER = frozenset({"fid", FID_INFINITY, "sfid", "kid"})
"""Metrics for which lower is better."""
SHOWN = tuple(name for metric in METRICS for name in ((metric, FID_INFINITY) if metric == "fid" else (metric,)))
"""Metrics in the order of tables."""
REPORT_SUFFIX = ".json"
"""Suffix of reports of earlier runs among the sets."""
SIGNIFICANT_ERRORS = 2.0
"""Scores that differ by fewer standard errors are not distinguished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareRequest:
    """Sets to compare."""

    sets: tuple[Path, ...]
    """Two or more sets as in `ScoreRequest.samples`, or reports of `medcli fid --json`."""
    common: ScoreRequest
    """Scoring options; its `samples` is ignored."""
    force: bool = False
    """Show scores even if their protocols differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareReport:
    """Reports of all sets, in the order given."""

    rows: tuple[dict[str, Any], ...]
    """Rows as returned by `FidReport.to_json`."""
    differences: tuple[str, ...]
    """Differences between their protocols; empty unless the comparison was forced."""

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
        errors = [self.rows[row].get("standard_errors", {}).get(key) for row in (best, place)]
        if None in errors:
            return False
        return abs(self.rows[best][key] - self.rows[place][key]) <= SIGNIFICANT_ERRORS * math.hypot(*errors)

    def to_json(self) -> dict[str, Any]:
        """Return the rows, the best of each metric, and the differences."""
        best = {json_key(metric): self.best(metric) for metric in SHOWN}
        return {
            "rows": list(self.rows),
            "best": {key: self.rows[place]["samples"] for key, place in best.items() if place is not None},
            "differences": list(self.differences),
        }


def compare_samples(request: CompareRequest, reporter: Reporter) -> CompareReport:
    """Score each set or read its report, and compare them.

    Raises:
        CheckFailed: If the scores rest on different protocols and `force` is off.
        ConfigError, DataError, EnvironmentProblem: As `score_samples` does, for any of the sets.
    """
    if len(request.sets) < 2:
        raise ConfigError("--compare needs two or more sets", hint="medcli fid --compare samples/a samples/b")
    for path in request.sets:
        if str(path) in BUNDLED and not path.exists():
            raise ConfigError(f"{path} is a reference, no sample set", hint=f"name it with --reference {path}")
    read = {path: read_reports(path) for path in request.sets if path.suffix.lower() == REPORT_SUFFIX}
    sides = {path: survey(path, request.common.num_images) for path in request.sets if path not in read}
    counted = {str(path): side.num_images for path, side in sides.items()}
    counted |= {name: row["num_samples"] for name, row in _named(read).items()}
    # Check as early as possible: hours of work should not end in a refusal.
    _check(request, {name: {"num_samples": num} for name, num in counted.items()})
    scored = _scored(request, sides, read, reporter) if sides else {}
    rows = [
        row
        for path in request.sets
        for row in (map(with_numbers, read.get(path, ())) if path in read else [scored[path]])
    ]
    protocols = {f"{row['samples']} (set {place})": compared(row) for place, row in enumerate(rows, 1)}
    _check(request, protocols)
    found = differences(protocols)
    for difference in found:
        reporter.note(f"warning: shown by --force, but not comparable: {difference}")
    return CompareReport(rows=tuple(rows), differences=tuple(found))


def _check(request: CompareRequest, protocols: Mapping[str, Mapping[str, Any]]) -> None:
    if not request.force:
        check_comparable(protocols)


def _named(read: Mapping[Path, Sequence[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the rows of all reports, under unique names."""
    return {
        str(path) if len(rows) == 1 else f"{path} (row {place})": row
        for path, rows in read.items()
        for place, row in enumerate(rows, 1)
    }


def _scored(
    request: CompareRequest, sides: Mapping[Path, Side], read: Mapping[Path, list[dict[str, Any]]], reporter: Reporter
) -> dict[Path, dict[str, Any]]:
    name = request.common.reference or common_reference(list(sides))
    yardstick = load_yardstick(request.common, survey_reference(name), list(sides.items()), reporter)
    earlier = {name: compared(row) for name, row in _named(read).items()}
    _check(request, {"this run": yardstick.protocol, **earlier})
    return {path: measure(yardstick, side, reporter).to_json() for path, side in sides.items()}


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
    if not rows or not all(isinstance(row, dict) and isinstance(row.get("samples"), str) for row in rows):
        raise DataError(f"{path} is no report of medcli fid", hint="write it with medcli fid ... --json")
    for row in rows:
        try:
            compared(row)
        except DataError as err:
            raise DataError(f"{path}: {err.message}", hint=err.hint) from err
    return rows

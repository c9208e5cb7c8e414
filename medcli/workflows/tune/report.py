"""Report of `tune`: candidates with costs and errors, the front, and the choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medcli.runtime.json_records import json_fields
from medcli.schedule.spec import Schedule
from medcli.tuning.candidates import Interval
from medcli.tuning.running import mean_and_error
from medcli.workflows.tune.measurements import Timing

FORMAT_VERSION = 2
GOOD_ERROR = 0.02
"""Relative error that the choice without a budget keeps to, if a candidate does."""
SURE = 2.0
"""Standard errors of a difference that count as a difference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A plan that was run, with standard errors over the images."""

    steps: int
    """Solver steps, as `--steps` has them."""
    calls: int
    schedule: Schedule
    networks: tuple[int, ...]
    """Mediator count of each step, 0 for full attention."""
    interval: Interval | None
    """Guidance interval; None: no guidance, or always on."""
    gmacs: float
    """GMACs of an image in the papers' convention: the sum over its steps."""
    gmacs_done: float
    """GMACs executed: without the queries and keys that are absorbed."""
    saving: float
    """Share of the baseline's GMACs saved."""
    seconds: float
    """Seconds of an image on this machine."""
    errors: tuple[float, ...] | None
    """Relative distance of each image from the fine path's; None for the baseline."""
    fid: float | None
    fid_standard_error: float | None
    fid_deviations: tuple[float, ...] | None
    plan_sha256: str
    is_fitted: bool = False
    """True if times and weights were fitted."""
    command: str | None = None
    """Command that samples its images; None for a fitted plan that was not chosen."""

    @property
    def error(self) -> tuple[float, float] | None:
        """Mean relative distance from the fine path's images and its standard error."""
        return None if self.errors is None else mean_and_error(self.errors)

    def judged(self, metric: str) -> float:
        """Value it is chosen by; lower is better."""
        value = self.fid if metric == "fid" else self.error and self.error[0]
        return math.inf if value is None else value

    def cost(self, unit: str) -> float:
        """Return its cost in a budget's unit: `gmacs`, `calls` or `seconds`."""
        return {"gmacs": self.gmacs, "calls": self.calls, "seconds": self.seconds}[unit]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        error, deviation = self.error or (None, None)
        names = ("steps", "calls", "interval", "gmacs", "gmacs_done", "seconds", "fid", "fid_standard_error")
        return {
            **json_fields(self, *names, "plan_sha256", "command"),
            "schedule": self.schedule.kind,
            "ladder": list(self.schedule.counts),
            "at": list(self.schedule.at),
            "networks": [count or "full" for count in self.networks],
            "saving_percent": 100 * self.saving,
            "error": error,
            "error_standard_error": deviation,
            "fitted": self.is_fitted,
        }


def difference(left: Row, right: Row, metric: str) -> tuple[float, float]:
    """Return the difference of two rows in a metric, and its standard error: their images come from the same noise."""
    if metric == "error":
        assert left.errors is not None and right.errors is not None  # noqa: PT018  only the baseline has none
        return mean_and_error([one - other for one, other in zip(left.errors, right.errors, strict=True)])
    value = left.judged(metric) - right.judged(metric)
    parts = left.fid_deviations, right.fid_deviations
    if parts[0] is not None and parts[1] is not None and len(parts[0]) == len(parts[1]):
        return value, math.dist(parts[0], parts[1])
    return value, math.hypot(left.fid_standard_error or 0.0, right.fid_standard_error or 0.0)


def choose(rows: Sequence[Row], metric: str, *, is_limited: bool) -> Row:
    """Choose a row: with a budget the best; without, the cheapest that is good enough.

    Good enough is an error of at most 2 %, or an FID that is not surely above the lowest. If no error is, the lowest is
    chosen.

    Args:
        rows: Rows within the budget.
        metric: `error` or `fid`.
        is_limited: True if there is a budget.
    """
    best = min(rows, key=lambda row: (row.judged(metric), row.gmacs))
    if is_limited:
        return best
    if metric == "error":
        good = [row for row in rows if row.judged(metric) <= GOOD_ERROR]
    else:
        good = [row for row in rows if is_no_worse(row, best, metric)]
    return min(good, key=lambda row: (row.gmacs, row.judged(metric)), default=best)


def is_no_worse(row: Row, other: Row, metric: str) -> bool:
    """Return True unless a row is worse than another by more than the error of their difference."""
    value, error = difference(row, other, metric)
    return value <= SURE * error


def is_better(row: Row, other: Row, metric: str) -> bool:
    """Return True if a row is better than another by more than the error of their difference."""
    value, error = difference(row, other, metric)
    return value < 0 and value < -SURE * error


@dataclass(frozen=True, kw_only=True, slots=True)
class FitReport:
    """Fitted times and weights against the solver's own, on images the fit has not seen."""

    row: Row
    is_kept: bool
    difference: float
    """In the metric; below 0 the fit is better."""
    difference_standard_error: float
    num_images: int
    """Images fitted to."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        names = ("difference", "difference_standard_error", "num_images")
        return {**self.row.to_json(), **json_fields(self, *names), "kept": self.is_kept}


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneReport:
    """The choice and all measurements."""

    output: str
    model: str
    budget: Mapping[str, Any] | None
    """Kind, value, unit, and the limit in that unit; None: no budget."""
    metric: str
    reason: str
    """Why it is judged by this metric."""
    dense: Row
    """Full attention, 250 steps of the SDE or DDPM."""
    chosen: Row
    front: tuple[Row, ...]
    """Pareto front of the runs, by rising cost."""
    candidates: tuple[Row, ...]
    """All runs but the baseline, by rising cost."""
    fit: FitReport | None
    plan: str
    """Plan file of the choice."""
    command: str
    """Command that samples the choice's images by the plan file."""
    pictures: str | None
    """Grid of the exact and the choice's pictures; None: there is no autoencoder here."""
    settings: Mapping[str, Any]
    timing: Timing
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the contents of `tuning.json`."""
        return {"kind": "medcli-tuning", "format_version": FORMAT_VERSION, **json_fields(self)}

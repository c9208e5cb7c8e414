"""Report of `tune`: configurations with their costs and errors, and the choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medcli.tuning.space import Configuration


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A configuration that was run, with standard errors over the images."""

    configuration: Configuration
    cost: float
    """Cost of an image in the budget's unit."""
    cost_standard_error: float
    gmacs: float
    """GMACs of an image in the papers' convention."""
    gmacs_done: float
    """GMACs executed: without the queries and keys that are absorbed."""
    ms: float | None
    """Milliseconds of an image on this machine; None: not measured."""
    error: float
    """Relative distance of the final states from the dense parent's."""
    error_standard_error: float
    fid: float | None
    expected_error: float | None
    """Replayed error, in its own scale."""
    convert_command: str | None
    """Command that converts its checkpoint; None: it runs on the given one."""
    command: str
    """Command that samples the measured images."""

    def judged(self, metric: str) -> float:
        """Value it is chosen by; lower is better."""
        return self.error if self.fid is None or metric == "error" else self.fid

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        names = ("cost", "cost_standard_error", "gmacs", "gmacs_done", "ms", "error", "error_standard_error", "fid")
        return {
            **self.configuration.to_json(),
            **{name: getattr(self, name) for name in names},
            "expected_error": self.expected_error,
            "convert_command": self.convert_command,
            "command": self.command,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneReport:
    """The choice and all measurements."""

    output: str
    model: str
    budget: Mapping[str, Any]
    """Kind, value, unit, and the limit in that unit."""
    metric: str
    dense: Candidate
    chosen: Candidate
    front: tuple[Candidate, ...]
    """Pareto front of the runs, by rising cost."""
    candidates: tuple[Candidate, ...]
    """All runs, by rising cost."""
    num_replayed: int
    """Number of replayed configurations."""
    rank_correlation: float | None
    """Spearman correlation of replayed and measured errors; None for fewer than three."""
    layer_order: tuple[tuple[int, float, float], ...]
    """Layer, its error alone, percent of a dense image it saves; least error per saving first."""
    settings: Mapping[str, Any]
    timing: Mapping[str, Any] | None
    """Timing of the milliseconds; None: not measured."""
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the contents of `tuning.json`."""
        names = ("layer", "error", "saving_percent")
        return {
            "kind": "medcli-tuning",
            "format_version": 1,
            "output": self.output,
            "model": self.model,
            "budget": dict(self.budget),
            "metric": self.metric,
            "chosen": self.chosen.to_json(),
            "dense": self.dense.to_json(),
            "front": [candidate.to_json() for candidate in self.front],
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "num_replayed": self.num_replayed,
            "rank_correlation": self.rank_correlation,
            "layer_order": [dict(zip(names, row, strict=True)) for row in self.layer_order],
            "settings": dict(self.settings),
            "timing": None if self.timing is None else dict(self.timing),
            "versions": dict(self.versions),
        }

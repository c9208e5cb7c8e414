"""What `tune` found: configurations with their costs and errors, and which of them it chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medcli.tuning.space import Configuration


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A configuration that was run. Standard errors are over the images."""

    configuration: Configuration
    cost: float
    """Of an image, in the budget's unit."""
    cost_standard_error: float
    gmacs: float
    """In the papers' convention."""
    gmacs_done: float
    """Without the queries and keys that are absorbed."""
    ms: float | None
    """On this machine; None where time was not measured."""
    error: float
    """Distance of the final states from the dense parent's, relative to these."""
    error_standard_error: float
    fid: float | None
    expected_error: float | None
    """What replays had promised, in their own scale; None where it was not replayed."""
    convert_command: str | None
    """Makes the checkpoint it runs on; None where it runs on the one that was given."""
    command: str
    """Samples the very images that were measured, at this cost."""

    def judged(self, metric: str) -> float:
        """What it is chosen by; less is better."""
        return self.error if self.fid is None or metric == "error" else self.fid

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("cost", "cost_standard_error", "gmacs", "gmacs_done", "ms", "error", "error_standard_error", "fid")
        return {
            **self.configuration.to_json(),
            **{name: getattr(self, name) for name in names},
            "expected_error": self.expected_error,
            "convert_command": self.convert_command,
            "command": self.command,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomCheck:
    """The choice beside that of a random search over configurations of equal cost."""

    metric: str
    chosen: Candidate
    others: tuple[Candidate, ...]
    """The random ones, run on the images the choice was made by."""
    best: Candidate | None
    """Their best there; None if none of that cost was found."""
    on_new_images: tuple[Candidate, ...]
    """The choice and that best one, on images that neither search has seen."""

    @property
    def is_beaten(self) -> bool:
        """Whether random search found something better, on the images both were chosen by."""
        return self.best is not None and self.best.judged(self.metric) < self.chosen.judged(self.metric)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "configurations": [other.to_json() for other in self.others],
            "best": self.best.to_json() if self.best else None,
            "chosen_is_best": not self.is_beaten,
            "on_new_images": [one.to_json() for one in self.on_new_images],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneReport:
    """The answer, and all it rests on."""

    output: str
    model: str
    budget: Mapping[str, Any]
    """Kind, value, unit, and the limit in that unit."""
    metric: str
    dense: Candidate
    chosen: Candidate
    front: tuple[Candidate, ...]
    """What nothing that was run beats in both cost and error, by rising cost."""
    candidates: tuple[Candidate, ...]
    """All that was run, by rising cost."""
    num_replayed: int
    """Configurations that were replayed without running the network."""
    rank_correlation: float | None
    """Spearman's, between what replays promised and what runs gave; None for fewer than three."""
    layer_order: tuple[tuple[int, float, float], ...]
    """Layer, its error by itself, the share of a dense image it saves; the layer that mediators suit best first."""
    random: RandomCheck | None
    settings: Mapping[str, Any]
    timing: Mapping[str, Any] | None
    """How milliseconds were measured; None where they were not."""
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """What stands in `tuning.json`."""
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
            "random": self.random.to_json() if self.random else None,
            "settings": dict(self.settings),
            "timing": None if self.timing is None else dict(self.timing),
            "versions": dict(self.versions),
        }

"""Results of an analysis, and their JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcli.engine.threshold_replay import QUANTILES, Trigger, quantiles, relative
from medcli.runtime.versions import versions
from medcli.workflows.analyze.attention import AttentionMap, Floats, Observation
from medcli.workflows.analyze.suggestion import Suggestion

# Dimension key: D layers, I images, L solver steps.

KIND = "medcli-analysis"
"""Value of `kind` in `analysis.json`."""
FORMAT_VERSION = 1
DIGITS = 6
"""Significant digits of numbers in the file, the precision of sampling."""
MEANING = "mean Jensen-Shannon divergence between the attention of different queries, in nats; low is redundant"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionFindings:
    """Results on attention."""

    seen: AttentionMap
    steps: tuple[int, ...]
    """Observed solver steps."""
    progress: tuple[float, ...]
    """Progress at the start of each, in [0, 1)."""
    is_exact: bool
    """All pairs of queries were compared in every layer."""
    pair_error: float
    """Largest standard error of one head of one image due to the choice of pairs, nats."""
    observations: Mapping[str, Observation]
    """Tests of the papers' observations, by name."""
    suggestion: Suggestion

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; lists of lists are layers by observed steps."""
        seen = self.seen
        return {
            "layers": list(range(len(seen.redundancy_DL))),
            "num_tokens": list(seen.num_tokens),
            "steps": list(self.steps),
            "progress": list(self.progress),
            "redundancy": _plain(seen.redundancy_DL),
            "redundancy_error": _plain(seen.error_DL),
            "redundancy_means": MEANING,
            "redundancy_max": _plain(math.log(2)),
            "redundancy_heads": [_plain(head_LH.T) for head_LH in seen.heads],
            "distinct_queries": _plain(seen.distinct_DL),
            "all_pairs": self.is_exact,
            "pair_error": _plain(self.pair_error),
            "observations": {name: found.to_json() for name, found in self.observations.items()},
            "suggestion": self.suggestion.to_json(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalyzeReport:
    """Report of an analysis."""

    output: str
    model: str
    settings: dict[str, Any]
    """All settings that determine the result, including hashes of the checkpoint."""
    given: Mapping[str, Any]
    """Paths and hints as given, see `medcli.settings.records.given_values`."""
    num_images: int
    num_steps: int
    attention: AttentionFindings | None
    """None with `--no-attention`."""
    distances: dict[str, Floats]
    """(I, L) by name of the distance."""
    triggers: dict[str, tuple[Trigger, ...]]
    """Moves triggered by each threshold, by name of the distance."""
    warmup_steps: int
    convert: str | None
    """Command that applies the suggestion, if there is one."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of `analysis.json` and its folder."""
        return {"output": self.output, **self.to_file()}

    def to_file(self) -> dict[str, Any]:
        """Return the content of `analysis.json`; keys as in docs/analysis.md."""
        return {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "num_images": self.num_images,
            "num_steps": self.num_steps,
            **(self.attention.to_json() if self.attention else {}),
            "latent_change": {
                "warmup_steps": self.warmup_steps,
                "quantiles": list(QUANTILES),
                "distances": {name: self._change(name) for name in self.distances},
            },
            "convert": self.convert,
            "settings": self.settings,
            "given": dict(self.given),
            "versions": versions("numpy"),
        }

    def _change(self, name: str) -> dict[str, Any]:
        distance_IL = self.distances[name]
        return {
            "distance": _plain(quantiles(distance_IL)),
            "relative": _plain(quantiles(relative(distance_IL, self.warmup_steps))),
            "thresholds": [
                {
                    "rho": trigger.rho,
                    "share": _plain(trigger.share),
                    "mean_step": _plain(trigger.mean_step),
                    "quantile_steps": [trigger.quantile(level) for level in QUANTILES],
                    "switch_steps": trigger.switch_I.tolist(),
                }
                for trigger in self.triggers[name]
            ],
        }


def _plain(values: Floats | float | None) -> Any:
    """Round numbers, as lists; None for NaN."""
    if values is None:
        return None
    if isinstance(values, np.ndarray):
        return [_plain(value) for value in values]
    return None if math.isnan(values) else float(f"{values:.{DIGITS}g}")

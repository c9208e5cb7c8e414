"""What a training step took on both sides, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from medcli.runtime.timing import Spread
from medcli.runtime.versions import versions
from medcli.workflows.bench.settings import Circumstances


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTrainRow:
    """What one side took at one mediator count."""

    variant: str
    """`medcli` or `plain`."""
    num_mediators: int
    """0 is full attention."""
    dtype: str
    compiled: bool
    encodes: bool
    """Whether images are encoded in the step."""
    num_images: int
    """Images of a step."""
    gmacs: float
    """Multiply-adds of a step's forward and backward pass through the network, in the papers' convention."""
    seconds: Spread
    """Of a step, by the report's clock."""
    wall_seconds: float
    """Median by the wall clock."""
    peak_memory_mib: float | None
    """Held at the worst moment of a step beyond weights, moments and averages; None where the system does not tell."""
    ratio_to_plain: float
    """Its images per second divided by the plain loop's: above 1 is faster."""

    @property
    def images_per_sec(self) -> float:
        """At the median."""
        return self.num_images / self.seconds.median

    @property
    def is_slower(self) -> bool:
        """Whether the plain loop is faster."""
        return self.ratio_to_plain < 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, units in the names."""
        names = ("variant", "num_mediators", "dtype", "compiled", "encodes", "num_images", "gmacs", "images_per_sec")
        return {
            **{name: getattr(self, name) for name in (*names, "peak_memory_mib", "ratio_to_plain")},
            "seconds_median": self.seconds.median,
            "seconds_q1": self.seconds.q1,
            "seconds_q3": self.seconds.q3,
            "wall_seconds_median": self.wall_seconds,
            "slower": self.is_slower,
        }


@dataclass(frozen=True, slots=True)
class TrainAgreement:
    """How near the losses of both sides are, step by step from the same weights on the same batches."""

    num_mediators: int
    num_steps: int
    max_relative_difference: float
    """Of two losses of a step; infinite if one is not finite."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; None for an infinite difference."""
        difference = self.max_relative_difference
        return {
            "num_mediators": self.num_mediators,
            "num_steps": self.num_steps,
            "max_relative_difference": difference if math.isfinite(difference) else None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTrainReport(Circumstances):
    """What both sides took, and where."""

    num_params: int
    vae: str | None
    lasting_mib: float
    """Weights, moments and averages of one side."""
    rows: tuple[BenchTrainRow, ...]
    agreements: tuple[TrainAgreement, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, units in the names."""
        names = (
            *("model", "resolution_px", "num_tokens", "num_params", "depth", "batch_size", "repeats", "clock"),
            *("device", "machine", "threads", "dtype", "compiled", "vae", "lasting_mib"),
        )
        return {
            **{name: getattr(self, name) for name in names},
            "layers": list(self.layers),
            "versions": versions(),
            "agreements": [agreement.to_json() for agreement in self.agreements],
            "rows": [row.to_json() for row in self.rows],
        }

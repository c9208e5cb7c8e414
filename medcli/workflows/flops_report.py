"""Report of `medcli flops`: forward passes, whole images and remarks for each network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medcli.workflows.image_cost import ImageCost, SamplingRun

FLOPS_PER_MAC = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class FlopsRow:
    """Cost of one forward pass of one image."""

    model: str
    """The preset or the file."""
    resolution_px: int
    attention: str
    """`full`, `mediators`, or `qk <ratio>`: full with narrower queries and keys."""
    num_mediators: int
    """0 without any."""
    layers: tuple[int, ...]
    """Blocks with mediators."""
    gmacs: float
    """In the papers' convention, where every token has a query and a key."""
    gmacs_done: float
    """Without the queries and keys that sampling multiplies into the mediators instead (`medcli.model.absorption`)."""
    num_params: int
    """Parameters this network has, the fixed position table included, and of a ladder this one count."""
    saving_percent: float
    """Against full attention at the same resolution; negative if more is spent."""

    @property
    def gflops(self) -> float:
        """1 MAC = 2 FLOPs."""
        return FLOPS_PER_MAC * self.gmacs

    def to_json(self) -> dict[str, Any]:
        """The keys of the contract, and `gmacs_done`."""
        names = ("model", "resolution_px", "attention", "num_mediators", "gmacs", "gmacs_done", "gflops", "num_params")
        values = {name: getattr(self, name) for name in (*names, "saving_percent")}
        return {**values, "layers": list(self.layers)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCosts:
    """Costs of one network: forward passes, full attention first at each resolution, and whole images."""

    model: str
    """The preset or the file."""
    rows: tuple[FlopsRow, ...]
    images: tuple[ImageCost, ...] = ()
    run: SamplingRun | None = None
    """Sampling run of these images."""
    depth: int
    """Blocks of the network."""
    remarks: tuple[str, ...] = ()
    """Counts left out, and differences from a paper's figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlopsReport:
    """Costs of networks side by side."""

    models: tuple[ModelCosts, ...]

    @property
    def rows(self) -> tuple[FlopsRow, ...]:
        """Forward passes of all networks."""
        return tuple(row for costs in self.models for row in costs.rows)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks of all networks, with their names."""
        return tuple(f"{costs.model}: {remark}" for costs in self.models for remark in costs.remarks)

    def to_json(self) -> dict[str, Any]:
        """The keys of the contract, and `images` and `remarks`."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "images": [{"model": costs.model, **image.to_json()} for costs in self.models for image in costs.images],
            "remarks": list(self.remarks),
        }

"""Result of the demo: a row for each variant, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcli.runtime.json_records import json_fields
from medcli.runtime.text import macs_text, measured
from medcli.settings.sampler import PAPER_STEPS
from medcli.workflows.sample.report import SampleReport

GRID = "demo.png"
LARGE_GRID = "demo-large.png"
SWITCHES = "switches.png"
SURE = 2.0
"""FIDs that differ by fewer standard errors are not distinguished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoRow:
    """Measurements of one variant."""

    variant: str
    res: int
    """Image side, in pixels."""
    num_images: int
    mediators: tuple[int, ...]
    """Mediator counts it uses; 0 is full attention."""
    nfe: float
    """Network calls of an image."""
    gmacs_per_image: float
    """Mean over its images, from the network calls each made."""
    saving_percent: float
    """Against the first variant of its size, which has full attention: the papers' 250 steps, few calls if larger."""
    images_per_sec: float | None
    """Sampling rate of this run, wall-clock; None if all images existed."""
    error: float | None
    """Mean relative distance of the final latents to the exact path of full attention; None for the SDE, which has
    none, and at the larger size."""
    fid: float | None
    """Against the real images, with the features of the bundled classifier; None at the larger size."""
    fid_standard_error: float | None
    label_agreement_percent: float
    """Images that the classifier assigns to the requested class."""
    switch_steps_mean: tuple[float | None, ...]
    """Mean solver step of each move along the ladder."""

    @property
    def fid_text(self) -> str:
        """FID with its standard error; a dash without one."""
        return "-" if self.fid is None else measured(self.fid, self.fid_standard_error)

    def line(self) -> str:
        """Describe the variant in a line, as soon as it is measured."""
        rate = f", {1 / self.images_per_sec:.2g} s" if self.images_per_sec else ""
        score = f"FID {self.fid_text}; " if self.fid is not None else ""
        return f"{self.variant}: {score}{macs_text(self.gmacs_per_image)} MACs{rate} an image"


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """Table and pictures of the demo."""

    output: str
    num_reference: int
    """Real images of the reference."""
    rows: tuple[DemoRow, ...]
    dynamic: SampleReport
    """The dynamic variant's own report, for its histogram."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **json_fields(self, "output", "num_reference", "rows"),
            "num_images": self.rows[0].num_images,
            "verdict": verdict(self.rows),
            "pictures": [str(Path(self.output) / name) for name in (GRID, LARGE_GRID, SWITCHES)],
        }


def verdict(rows: Sequence[DemoRow]) -> str:
    """Return the verdict in one sentence, with its reason.

    It names the cheapest variant whose FID is not worse than that of the papers' sampling beyond the error.

    Args:
        rows: The papers' sampling first, then at least one other; those without a FID are of the larger size, full
            attention first.
    """
    papers, *others = (row for row in rows if row.fid is not None)
    good = [row for row in others if not _is_worse(row, papers)]
    if not good:
        best = min(others, key=lambda row: row.fid or 0.0)
        return (
            f"full attention in {PAPER_STEPS} steps is the best here: FID {papers.fid_text} against {best.fid_text} of "
            f'"{best.variant}", more than their errors explain'
        )
    chosen = min(good, key=lambda row: (round(row.gmacs_per_image, 9), row.fid or 0.0))
    better = "better images than" if _is_worse(papers, chosen) else "images as good as"
    per_call = (chosen.gmacs_per_image / chosen.nfe) / (papers.gmacs_per_image / papers.nfe)
    fewer = papers.gmacs_per_image / chosen.gmacs_per_image
    saved = 100 * (1 - per_call)
    mediators = f" and mediators save {saved:.1f} % of each" if saved >= 0.05 else ""
    return (
        f'"{chosen.variant}" makes {better} the papers\' {PAPER_STEPS} steps (FID {chosen.fid_text} against '
        f"{papers.fid_text}) with {fewer:.3g} times fewer multiply-adds, because it makes {chosen.nfe:g} network calls "
        f"instead of {papers.nfe:g}{mediators}{_larger(rows)}"
    )


def _larger(rows: Sequence[DemoRow]) -> str:
    """Return what mediators save at the larger size, as the end of a sentence; empty without such rows."""
    large = [row for row in rows if row.fid is None]
    if len(large) < 2:
        return ""
    row = large[-1]
    return f"; at {row.res} px {row.mediators[0]} mediators save {row.saving_percent:.0f} % of the same steps"


def _is_worse(row: DemoRow, other: DemoRow) -> bool:
    """Check for a FID that is higher than another by more than the errors explain."""
    error = math.hypot(row.fid_standard_error or 0.0, other.fid_standard_error or 0.0)
    return (row.fid or 0.0) - (other.fid or 0.0) > SURE * error

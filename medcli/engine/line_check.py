"""Check that a run can have written a line of `images.jsonl`: label, switch steps and cost follow from its plan."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from medcli.diffusion.steps import build_sampler
from medcli.engine.cost import gmacs_of_moves
from medcli.engine.guidance_phases import step_passes
from medcli.engine.image_records import Record
from medcli.engine.plan import SamplingPlan
from medcli.settings.sampler import ADAPTIVE_SOLVERS

CHUNK = 4096
"""Labels computed at once."""
TOLERANCE = 1e-6
"""Relative; lines have nine digits."""


class LineCheck:
    """Compares lines with a plan.

    Args:
        plan: How the images are made.
        gmacs_per_pass: Cost of one forward pass at each ladder index.
    """

    def __init__(self, plan: SamplingPlan, gmacs_per_pass: Sequence[float]) -> None:
        self._plan, self._gmacs_per_pass = plan, gmacs_per_pass
        is_adaptive = plan.sampler.solver in ADAPTIVE_SOLVERS
        self._passes_L = (
            None if is_adaptive else step_passes(build_sampler(plan.sampler, rows=plan.rows), plan.guidance)
        )
        self._labels: dict[int, list[int]] = {}
        self._costs: dict[tuple[int, ...], float | None] = {}

    def is_possible(self, record: Record) -> bool:
        """Return False for a line that no run of the plan writes."""
        if record.label != self._label(record.index):
            return False
        if self._passes_L is None:  # the solver chooses its steps
            return not record.switch_steps
        if record.switch_steps not in self._costs:
            self._costs[record.switch_steps] = self._cost(record.switch_steps)
        cost = self._costs[record.switch_steps]
        return cost is not None and math.isclose(record.gmacs, cost, rel_tol=TOLERANCE)

    def _label(self, index: int) -> int:
        chunk = index // CHUNK
        if chunk not in self._labels:
            index_B = torch.arange(chunk * CHUNK, (chunk + 1) * CHUNK)
            self._labels[chunk] = self._plan.labels.of(self._plan.seed, index_B).tolist()
        return self._labels[chunk][index % CHUNK]

    def _cost(self, moves: tuple[int, ...]) -> float | None:
        """Return the GMACs of an image with these moves; None where there are no such moves."""
        assert self._passes_L is not None
        is_rising = list(moves) == sorted(moves) and all(move < len(self._passes_L) for move in moves)
        if not is_rising or len(moves) >= len(self._gmacs_per_pass):
            return None
        return gmacs_of_moves(self._passes_L, [moves], self._gmacs_per_pass)[0]

"""Read a sample folder for a page: pictures, moves along the ladder, and the cost of each solver step."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medcli.cost.macs import saving_percent
from medcli.data.images import MANIFEST, NUMBERED
from medcli.diffusion.steps import build_sampler
from medcli.engine.guidance_phases import step_passes
from medcli.engine.image_records import read_records
from medcli.settings.sampler import ADAPTIVE_SOLVERS, PAPER_STEPS
from medcli.workflows.image_cost import SamplingRun, recorded_run
from medcli.workflows.report.commands import sample_command
from medcli.workflows.report.json_access import Json, as_list, look_up, number, read_json, text

PER_PASS = "gmacs_per_pass"
SHOWN = 60
"""Characters of a class name shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image of a run."""

    file: Path
    index: int
    label: int
    class_name: str = ""
    """Name of its class; empty: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledRun:
    """Contents of a sample folder."""

    name: str
    manifest: Json
    run: SamplingRun
    num_promised: int
    pictures: tuple[Picture, ...]
    command: str | None
    sha256: str
    """SHA-256 of the manifest."""

    @property
    def num_images(self) -> int:
        """Number of finished images."""
        return len(self.run.moves or ())

    @property
    def num_steps(self) -> int:
        """Solver steps of an image; 0 for adaptive solvers."""
        return 0 if self.run.sampler.solver in ADAPTIVE_SOLVERS else build_sampler(self.run.sampler).num_steps

    def total(self, name: str) -> float | None:
        """Return one of the manifest's totals."""
        return number(look_up(self.manifest, "totals", name))

    @property
    def saved_percent(self) -> float | None:
        """Percentage of the dense cost saved, in the papers' convention."""
        gmacs, dense = self.total("gmacs_per_image"), self.total("gmacs_dense")
        return saving_percent(gmacs, dense) if gmacs is not None and dense else None

    @property
    def papers_gmacs(self) -> float | None:
        """GMACs of an image with full attention in the papers' 250 steps, guided throughout if this run is guided."""
        dense, num_passes = self.total("gmacs_dense"), sum(self._passes()) if self.num_steps else 0
        return PAPER_STEPS * self.run.guidance.num_halves * dense / num_passes if dense and num_passes else None

    def moves_to(self, place: int) -> tuple[int, ...]:
        """Return the solver step of each image that moved to this ladder index."""
        return tuple(made[place - 1] for made in self.run.moves or () if len(made) >= place)

    def step_costs(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return mean GMACs per image of each solver step, and of full attention; None if the totals lack them."""
        passes, dense = self.num_steps and self._passes(), self.total("gmacs_dense")
        costs = [number(value) for value in as_list(look_up(self.manifest, "totals", PER_PASS))]
        if not passes or dense is None or None in costs or len(costs) != len(self.run.schedule.counts):
            return None
        known = [cost for cost in costs if cost is not None]
        dense_pass = dense / sum(passes)
        return self._means(passes, known), tuple(dense_pass * num for num in passes)

    def _passes(self) -> list[int]:
        return [int(num) for num in step_passes(build_sampler(self.run.sampler), self.run.guidance)]

    def _means(self, passes: list[int], costs: list[float]) -> tuple[float, ...]:
        """Average over images; the step after the one that triggered a move uses the next ladder index."""
        moved = [Counter(self.moves_to(place)) for place in range(1, len(costs))]
        at_index = [self.num_images, *(0 for _ in moved)]
        means = []
        for step, num in enumerate(passes):
            means.append(num * sum(c * n for c, n in zip(costs, at_index, strict=True)) / self.num_images)
            for place, steps in enumerate(moved, 1):
                at_index[place - 1] -= steps[step]
                at_index[place] += steps[step]
        return tuple(means)


def read_run(folder: Path, num_pictures: int) -> SampledRun:
    """Read a sample folder.

    Args:
        folder: It holds a manifest.
        num_pictures: Most images to show.

    Raises:
        DataError: If anything in it is not as `medcli sample` writes it.
    """
    run = recorded_run(folder)
    manifest = read_json(folder / MANIFEST)
    promised = manifest.get("num_images")
    return SampledRun(
        name=str(folder),
        manifest=manifest,
        run=run,
        num_promised=promised if isinstance(promised, int) else len(run.moves or ()),
        pictures=_pictures(folder, num_pictures, manifest),
        command=sample_command(str(folder), manifest),
        sha256=hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
    )


def _pictures(folder: Path, most: int, manifest: Json) -> tuple[Picture, ...]:
    records = (record for record in read_records(folder) if record and NUMBERED.fullmatch(record.file))
    first = sorted({record.index: record.label for record in records}.items())
    found = ((folder / f"{index:06d}.png", index, label) for index, label in first)
    names = look_up(manifest, "class_names")
    there = (
        Picture(file=file, index=index, label=label, class_name=text(look_up(names, str(label)), "")[:SHOWN])
        for file, index, label in found
        if file.is_file()
    )
    return tuple(islice(there, most))

"""Read a sample folder for a page: pictures, moves along the ladder, and the cost of each solver step."""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medcli.cost.macs import saving_percent
from medcli.data.images import MANIFEST
from medcli.engine.guidance_phases import step_passes
from medcli.engine.image_records import Record, file_name
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
        return self.run.num_images or 0

    @property
    def num_steps(self) -> int:
        """Solver steps of an image; 0 for adaptive solvers."""
        return 0 if self.run.sampler.solver in ADAPTIVE_SOLVERS else self.run.solver().num_steps

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

    def moves_to(self, place: int) -> Counter[int]:
        """Return the number of images that moved to this ladder index by the solver step at which they did."""
        steps = Counter[int]()
        for made, count in (self.run.moves or {}).items():
            if len(made) >= place:
                steps[made[place - 1]] += count
        return steps

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
        return [int(num) for num in step_passes(self.run.solver(), self.run.guidance)]

    def _means(self, passes: list[int], costs: list[float]) -> tuple[float, ...]:
        """Average over images; the step after the one that triggered a move uses the next ladder index."""
        moved = [self.moves_to(place) for place in range(1, len(costs))]
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
    first = _FirstPictures(folder, num_pictures)
    run = recorded_run(folder, see=first.see)
    manifest = read_json(folder / MANIFEST)
    promised = manifest.get("num_images")
    return SampledRun(
        name=str(folder),
        manifest=manifest,
        run=run,
        num_promised=promised if isinstance(promised, int) else run.num_images or 0,
        pictures=first.pictures(look_up(manifest, "class_names")),
        command=sample_command(str(folder), manifest),
        sha256=hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
    )


class _FirstPictures:
    """The pictures of the smallest numbers that are there, found in one pass over any number of records.

    Args:
        most: Pictures wanted.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._found: list[tuple[int, int]] = []

    def see(self, record: Record) -> None:
        """Keep a record if its picture is among the first."""
        is_late = len(self._found) == self._most and (not self._most or record.index > self._found[-1][0])
        if not is_late and (self._folder / record.file).is_file():
            bisect.insort(self._found, (record.index, record.label))
            del self._found[self._most :]

    def pictures(self, class_names: Json) -> tuple[Picture, ...]:
        """Return them in order."""
        return tuple(
            Picture(
                file=self._folder / file_name(index),
                index=index,
                label=label,
                class_name=text(look_up(class_names, str(label)), "")[:SHOWN],
            )
            for index, label in self._found
        )

"""Compare dense attention, each static mediator count and the dynamic schedule on the bundled model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medcli.charts.figure import save_png
from medcli.charts.plots import add_legend
from medcli.checkpoint.reader import describe
from medcli.data.assets import BUNDLED_MODEL, asset_path
from medcli.engine.image_records import RECORDS, Record, file_name
from medcli.engine.pictures import grid_of, read_png, write_png
from medcli.errors import ConfigError
from medcli.runtime.reporting import Reporter
from medcli.scores.digits_extractor import digit_labels, load_digits_extractor
from medcli.settings.pages import DemoRequest
from medcli.settings.sampling import SampleRequest, ScheduleKind
from medcli.settings.scoring import FeatureOptions, ScoreRequest
from medcli.workflows.fid.run import score_samples
from medcli.workflows.sample.run import SampleReport, sample

GRID = "demo.png"
SWITCHES = "switches.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoRow:
    """Measurements of one variant."""

    variant: str
    mediators: tuple[int, ...]
    """Mediator counts it uses; 0 is full attention."""
    gmacs_per_image: float
    """Mean over its images, from the network calls each made."""
    saving_percent: float
    """Against the dense variant; negative where it costs more."""
    images_per_sec: float | None
    """Sampling rate of this run, wall-clock; None if all images existed."""
    fid: float
    """Against the real digits, with the bundled digit classifier's features."""
    label_agreement_percent: float
    """Images that the classifier assigns to the requested class."""
    switch_steps_mean: tuple[float | None, ...]
    """Mean solver step of each move along the ladder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """Table and pictures of the demo."""

    output: str
    num_images: int
    rows: tuple[DemoRow, ...]
    dynamic: SampleReport
    """The dynamic variant's own report, for its histogram."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "output": self.output,
            "num_images": self.num_images,
            "rows": [asdict(row) for row in self.rows],
            "pictures": [str(Path(self.output) / GRID), str(Path(self.output) / SWITCHES)],
        }


def run_demo(request: DemoRequest, reporter: Reporter) -> DemoReport:
    """Sample and score every variant, and draw two pictures.

    Raises:
        ConfigError: If there are too few images to score, or the output belongs to another run.
        EnvironmentProblem: If a bundled file is missing, or the output can't be written.
    """
    ladder = describe(asset_path(BUNDLED_MODEL)).config.mediators
    if request.num_images < 10:
        raise ConfigError(f"--num-images must be at least 10 to be scored, got {request.num_images}")
    variants: dict[str, tuple[ScheduleKind, tuple[int, ...] | None]]
    variants = {"dense": ("full", None), **{f"static {count}": ("static", (count,)) for count in ladder}}
    variants["dynamic"] = ("dynamic", None)
    reports: dict[str, SampleReport] = {}
    rows: list[DemoRow] = []
    for name, (schedule, counts) in variants.items():
        titled = _Titled(reporter, f"{name}: {request.num_images} images")
        reports[name] = sample(_sample_request(request, name, schedule, counts), titled)
        rows.append(_row(name, reports[name], reports["dense"], reporter))
    folders = {name: Path(report.output) for name, report in reports.items()}
    write_png(request.output / GRID, _comparison(list(folders.values())))
    _draw_switches(request.output / SWITCHES, reports["dynamic"])
    return DemoReport(
        output=str(request.output), num_images=request.num_images, rows=tuple(rows), dynamic=reports["dynamic"]
    )


class _Titled:
    """Reporter that prints a title before the first message it forwards."""

    def __init__(self, reporter: Reporter, title: str) -> None:
        self._reporter, self._title = reporter, title

    def progress(self, done: int, total: int, unit: str) -> None:
        """Forward it, after the title."""
        self._print_title()
        self._reporter.progress(done, total, unit)

    def note(self, text: str) -> None:
        """Forward it, after the title."""
        self._print_title()
        self._reporter.note(text)

    def _print_title(self) -> None:
        if self._title:
            self._reporter.note(self._title)
            self._title = ""


def _sample_request(
    request: DemoRequest, name: str, schedule: ScheduleKind, counts: tuple[int, ...] | None
) -> SampleRequest:
    return SampleRequest(
        num_images=request.num_images,
        schedule=schedule,
        mediators=counts,
        seed=request.seed,
        device=request.device,
        output=request.output / name.replace(" ", "-"),
    )


def _fid_of(samples: Path) -> ScoreRequest:
    return ScoreRequest(samples=samples, metrics=("fid",), features=FeatureOptions(no_cache=True))


def _row(name: str, report: SampleReport, dense: SampleReport, reporter: Reporter) -> DemoRow:
    scores = score_samples(_fid_of(Path(report.output)), reporter)
    fid = scores.scores.values["fid"]
    assert fid is not None  # the digits extractor has the features FID needs
    return DemoRow(
        variant=name,
        mediators=report.counts,
        gmacs_per_image=report.gmacs_per_image,
        saving_percent=100 * (1 - report.gmacs_per_image / dense.gmacs_per_image),
        images_per_sec=report.images_per_sec,
        fid=fid,
        label_agreement_percent=100 * label_agreement(Path(report.output)),
        switch_steps_mean=report.switch_steps_mean,
    )


def label_agreement(folder: Path) -> float:
    """Return the share of images that the bundled classifier assigns to the requested class, in [0, 1].

    Args:
        folder: A finished sample folder of digits.
    """
    lines = (folder / RECORDS).read_text(encoding="utf-8").splitlines()
    records = [record for record in map(Record.of_line, lines) if record is not None]
    images_BYXC = np.stack([read_png(folder / record.file) for record in records])
    read_B = digit_labels(torch.from_numpy(images_BYXC), load_digits_extractor())
    return float((read_B == torch.tensor([record.label for record in records])).double().mean())


def _comparison(folders: list[Path]) -> npt.NDArray[np.uint8]:
    """Arrange one row per variant, with the same ten image numbers in each."""
    columns = 10
    return grid_of([read_png(folder / file_name(index)) for folder in folders for index in range(columns)], columns)


def _draw_switches(path: Path, report: SampleReport) -> None:
    """Draw the moves of each image along the ladder: one line an image, one colour a mediator count."""
    order = sorted(report.switch_steps)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for index, count in enumerate(report.counts):
            starts = [_first_step(steps, index, report.num_steps) for steps in order]
            ends = [_first_step(steps, index + 1, report.num_steps) for steps in order]
            widths = [end - start for start, end in zip(starts, ends, strict=True)]
            name = f"{count} mediator{'s' if count > 1 else ''}"
            axes.barh(range(len(order)), widths, left=starts, height=1.0, label=name)
        axes.set(
            xlabel="solver step", ylabel="image, sorted", xlim=(0, report.num_steps), ylim=(-0.5, len(order) - 0.5)
        )
        add_legend(axes)

    save_png(path, draw, title="Mediators in use at each solver step")


def _first_step(switch_steps: tuple[int, ...], index: int, num_steps: int) -> int:
    """Return the first solver step at a ladder index; the number of steps if it was never reached."""
    if index == 0:
        return 0
    return switch_steps[index - 1] + 1 if len(switch_steps) >= index else num_steps

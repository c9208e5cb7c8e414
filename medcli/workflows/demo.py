"""The whole pipeline on the bundled model: dense attention, each static ladder index and the dynamic rule compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medcli.checkpoint.reader import describe
from medcli.data.assets import BUNDLED_MODEL, asset_path
from medcli.engine.image_records import RECORDS, Record, file_name
from medcli.engine.pictures import grid_of, read_png, write_png
from medcli.errors import ConfigError
from medcli.runtime.files import atomic_path
from medcli.runtime.reporting import Reporter
from medcli.scores.digits_extractor import digit_labels, load_digits_extractor
from medcli.settings.sampling import SampleRequest, ScheduleKind
from medcli.workflows.fid.run import FidRequest, score_samples
from medcli.workflows.sample.run import SampleReport, sample

GRID = "demo.png"
SWITCHES = "switches.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoRequest:
    """What to compare."""

    num_images: int = 200
    """Images of each variant."""
    seed: int = 0
    """Of all variants: image i starts from the same noise in each."""
    output: Path = Path("demo")
    """Gets one sample folder a variant and two pictures; the same command again finishes what is missing."""
    device: str | None = None
    """None: the best there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoRow:
    """One variant, measured."""

    variant: str
    mediators: tuple[int, ...]
    """Counts it visits; 0 is full attention."""
    gmacs_per_image: float
    """Mean over its images, from the network calls each really made."""
    saving_percent: float
    """Against the dense variant; negative where it costs more."""
    images_per_sec: float | None
    """Wall-clock rate of sampling on this machine, this time; None if all images were there already."""
    fid: float
    """Against the real digits, with the bundled digit classifier's features."""
    label_agreement_percent: float
    """Images that the classifier reads as the digit that was asked for."""
    switch_steps_mean: tuple[float | None, ...]
    """Mean solver step of each move along the ladder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """The table of the demo, and where its pictures are."""

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
    """Sample every variant, score it, and draw the two pictures.

    Raises:
        ConfigError: If too few images are asked for to be scored, or the output belongs to another run.
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
        told = _Titled(reporter, f"{name}: {request.num_images} images")
        reports[name] = sample(_sample_request(request, name, schedule, counts), told)
        rows.append(_row(name, reports[name], reports["dense"], reporter))
    folders = {name: Path(report.output) for name, report in reports.items()}
    write_png(request.output / GRID, _comparison(list(folders.values())))
    _draw_switches(request.output / SWITCHES, reports["dynamic"])
    return DemoReport(
        output=str(request.output), num_images=request.num_images, rows=tuple(rows), dynamic=reports["dynamic"]
    )


class _Titled:
    """Says a title before the first thing it passes on: a run that is refused, or done already, has none."""

    def __init__(self, reporter: Reporter, title: str) -> None:
        self._reporter, self._title = reporter, title

    def progress(self, done: int, total: int, unit: str) -> None:
        """Pass it on."""
        self._say_title()
        self._reporter.progress(done, total, unit)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._say_title()
        self._reporter.note(text)

    def _say_title(self) -> None:
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


def _row(name: str, report: SampleReport, dense: SampleReport, reporter: Reporter) -> DemoRow:
    scores = score_samples(FidRequest(samples=Path(report.output), metrics=("fid",)), reporter)
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
    """Share of a folder's images that the bundled classifier reads as the digit asked for, in [0, 1].

    Args:
        folder: A finished sample folder of digits.
    """
    lines = (folder / RECORDS).read_text(encoding="utf-8").splitlines()
    records = [record for record in map(Record.of_line, lines) if record is not None]
    images_BYXC = np.stack([read_png(folder / record.file) for record in records])
    read_B = digit_labels(torch.from_numpy(images_BYXC), load_digits_extractor())
    return float((read_B == torch.tensor([record.label for record in records])).double().mean())


def _comparison(folders: list[Path]) -> npt.NDArray[np.uint8]:
    """One row a variant: the same ten image numbers in each, so columns show what the attention alone changes."""
    columns = 10
    return grid_of([read_png(folder / file_name(index)) for folder in folders for index in range(columns)], columns)


def _draw_switches(path: Path, report: SampleReport) -> None:
    """Draw where each image climbed the ladder: one line an image, one colour a mediator count."""
    from matplotlib.figure import Figure  # no pyplot: nothing global is touched

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    order = sorted(report.switch_steps)
    for ladder_index, count in enumerate(report.counts):
        starts = [_entered(steps, ladder_index, report.num_steps) for steps in order]
        ends = [_entered(steps, ladder_index + 1, report.num_steps) for steps in order]
        widths = [end - start for start, end in zip(starts, ends, strict=True)]
        axes.barh(
            range(len(order)), widths, left=starts, height=1.0, label=f"{count} mediator{'s' if count > 1 else ''}"
        )
    axes.set(xlabel="solver step", ylabel="image, sorted", xlim=(0, report.num_steps), ylim=(-0.5, len(order) - 0.5))
    axes.set_title("Mediators in use, step by step")
    axes.legend(loc="lower left")
    with atomic_path(path, force=True) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _entered(switch_steps: tuple[int, ...], ladder_index: int, num_steps: int) -> int:
    """First solver step at a ladder index; the end of the run if it was never reached."""
    if ladder_index == 0:
        return 0
    return switch_steps[ladder_index - 1] + 1 if len(switch_steps) >= ladder_index else num_steps

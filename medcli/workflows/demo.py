"""Compare the papers' sampling of the bundled model with few network calls and with mediators."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medcli.charts.figure import save_png
from medcli.charts.plots import add_legend
from medcli.checkpoint.reader import describe
from medcli.config import ModelConfig
from medcli.data.assets import BUNDLED_MODEL, asset_path
from medcli.engine.fine_path import final_latents, fine_latents, follows_path, relative_errors
from medcli.engine.generate import generate
from medcli.engine.image_records import RECORDS, Record, file_name
from medcli.engine.networks import ladder_networks
from medcli.engine.pictures import grid_of, read_png, write_png
from medcli.engine.plan import FAMILY_SAMPLERS
from medcli.errors import ConfigError
from medcli.presets import DEFAULT_BUNDLE
from medcli.runtime.device import pick_device
from medcli.runtime.reporting import Reporter
from medcli.scores.classifier import class_labels
from medcli.scores.registry import load_extractor
from medcli.settings.pages import DemoRequest
from medcli.settings.sampler import PAPER_STEPS
from medcli.settings.sampling import SampleRequest
from medcli.settings.scoring import FeatureOptions, ScoreRequest
from medcli.workflows.fid.run import score_samples
from medcli.workflows.fid.scoring import FidReport
from medcli.workflows.sample.report import SampleReport
from medcli.workflows.sample.run import sample
from medcli.workflows.sample.settings import set_up

GRID = "demo.png"
SWITCHES = "switches.png"
MOST_COMPARED = 32
"""Images whose distance to the exact path is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoRow:
    """Measurements of one variant."""

    variant: str
    mediators: tuple[int, ...]
    """Mediator counts it uses; 0 is full attention."""
    nfe: float
    """Network calls of an image."""
    gmacs_per_image: float
    """Mean over its images, from the network calls each made."""
    saving_percent: float
    """Against the first variant, full attention with the papers' 250 steps."""
    images_per_sec: float | None
    """Sampling rate of this run, wall-clock; None if all images existed."""
    error: float | None
    """Mean relative distance of the final latents to the exact path of full attention; None for the SDE, which has
    none."""
    fid: float
    """Against the real images, with the features of the bundled classifier."""
    label_agreement_percent: float
    """Images that the classifier assigns to the requested class."""
    switch_steps_mean: tuple[float | None, ...]
    """Mean solver step of each move along the ladder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """Table and pictures of the demo."""

    output: str
    num_images: int
    num_reference: int
    """Real images of the reference."""
    rows: tuple[DemoRow, ...]
    dynamic: SampleReport
    """The dynamic variant's own report, for its histogram."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "output": self.output,
            "num_images": self.num_images,
            "num_reference": self.num_reference,
            "rows": [asdict(row) for row in self.rows],
            "pictures": [str(Path(self.output) / GRID), str(Path(self.output) / SWITCHES)],
        }


def demo_variants(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Return the settings of `sample` of each variant: the papers' run, and what fewer calls and mediators make of it.

    Args:
        config: The bundled model; its header has the number of calls and the thresholds.
    """
    first, few = FAMILY_SAMPLERS[config.family]
    ladder = config.mediators
    early, most = ladder[len(ladder) // 2], ladder[-1]
    return {
        f"dense, {PAPER_STEPS} steps": {"sampler": first, "steps": PAPER_STEPS, "schedule": "full"},
        "dense": {"sampler": few, "schedule": "full"},
        f"{early} early, then dense": {"sampler": few, "schedule": "timed", "mediators": (early, 0), "at": (0.5,)},
        f"{most} mediators": {"sampler": few, "schedule": "static", "mediators": (most,)},
        "dynamic": {"sampler": first, "schedule": "dynamic"},
    }


def run_demo(request: DemoRequest, reporter: Reporter) -> DemoReport:
    """Sample and score every variant, and draw two pictures.

    Raises:
        ConfigError: If there are too few images to score, or the output belongs to another run.
        EnvironmentProblem: If a bundled file is missing, or the output can't be written.
    """
    if request.num_images < 10:
        raise ConfigError(f"--num-images must be at least 10 to be scored, got {request.num_images}")
    requests = {
        name: SampleRequest(
            num_images=request.num_images,
            seed=request.seed,
            device=request.device,
            output=request.output / re.sub(r"\W+", "-", name),
            **settings,
        )
        for name, settings in demo_variants(describe(asset_path(BUNDLED_MODEL)).config).items()
    }
    reports = {
        name: sample(each, _Titled(reporter, f"{name}: {request.num_images} images")) for name, each in requests.items()
    }
    errors = _errors(requests, reporter)
    dense = next(iter(reports.values()))
    rows = []
    for name, report in reports.items():
        scores = _scores(Path(report.output), reporter)
        rows.append(_row(name, report, dense, errors.get(name), scores))
    write_png(request.output / GRID, _comparison([Path(report.output) for report in reports.values()]))
    _draw_switches(request.output / SWITCHES, reports["dynamic"])
    return DemoReport(
        output=str(request.output),
        num_images=request.num_images,
        num_reference=scores.num_reference or 0,
        rows=tuple(rows),
        dynamic=reports["dynamic"],
    )


def _errors(requests: Mapping[str, SampleRequest], reporter: Reporter) -> dict[str, float]:
    """Return the mean relative distance to the exact path of each variant that has one."""
    device = pick_device(next(iter(requests.values())).device)
    setups = {name: set_up(each, device.type) for name, each in requests.items()}
    indices = range(min(MOST_COMPARED, next(iter(requests.values())).num_images))
    plans = {
        name: replace(setup.plan, batch_size=min(setup.plan.batch_size, len(indices)))
        for name, setup in setups.items()
        if follows_path(setup.plan.sampler)
    }
    model = next(iter(setups.values())).networks[0].load(device=device)
    exact = fine_latents(ladder_networks(model, (0,))[0], next(iter(plans.values())), indices, device=device)
    errors = {}
    for done, (name, plan) in enumerate(plans.items(), 1):
        networks = ladder_networks(model, plan.schedule.counts)
        made = final_latents(list(generate(networks, plan, indices, device=device)))
        errors[name] = float(relative_errors(made, exact).mean())
        reporter.progress(done, len(plans), "paths")
    return errors


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


def _scores(samples: Path, reporter: Reporter) -> FidReport:
    return score_samples(
        ScoreRequest(samples=samples, metrics=("fid",), features=FeatureOptions(no_cache=True)), reporter
    )


def _row(name: str, report: SampleReport, dense: SampleReport, error: float | None, scores: FidReport) -> DemoRow:
    fid = scores.scores.values["fid"]
    assert fid is not None  # the bundled extractor has the features FID needs
    return DemoRow(
        variant=name,
        mediators=report.counts,
        nfe=report.nfe,
        gmacs_per_image=report.gmacs_per_image,
        saving_percent=100 * (1 - report.gmacs_per_image / dense.gmacs_per_image),
        images_per_sec=report.images_per_sec,
        error=error,
        fid=fid,
        label_agreement_percent=100 * label_agreement(Path(report.output)),
        switch_steps_mean=report.switch_steps_mean,
    )


def label_agreement(folder: Path) -> float:
    """Return the share of images that the bundled classifier assigns to the requested class, in [0, 1].

    Args:
        folder: A finished sample folder of the bundled model.
    """
    lines = (folder / RECORDS).read_text(encoding="utf-8").splitlines()
    records = [record for record in map(Record.of_line, lines) if record is not None]
    images_BYXC = np.stack([read_png(folder / record.file) for record in records])
    read_B = class_labels(torch.from_numpy(images_BYXC), load_extractor(DEFAULT_BUNDLE))
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

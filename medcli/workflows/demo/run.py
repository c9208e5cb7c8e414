"""Compare the papers' sampling of the bundled model with few network calls and with mediators."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcli.checkpoint.reader import describe
from medcli.config import ModelConfig
from medcli.data.assets import BUNDLED_MODEL, asset_path
from medcli.engine.fine_path import final_latents, fine_latents, follows_path, relative_errors
from medcli.engine.generate import generate
from medcli.engine.image_records import RECORDS, Record
from medcli.engine.networks import ladder_networks
from medcli.engine.pictures import read_png
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
from medcli.workflows.demo.pictures import draw_grid, draw_switches
from medcli.workflows.demo.report import GRID, SWITCHES, DemoReport, DemoRow
from medcli.workflows.fid.kept import keep_scores
from medcli.workflows.fid.run import score_samples
from medcli.workflows.sample.report import SampleReport
from medcli.workflows.sample.run import sample
from medcli.workflows.sample.settings import set_up

MOST_COMPARED = 32
"""Images whose distance to the exact path is measured."""


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
    measure = _Measure(requests, reporter)
    reports: dict[str, SampleReport] = {}
    rows: list[DemoRow] = []
    reporter.note(f"{len(requests)} variants of {request.num_images} images each; their scores as they come:")
    for name, each in requests.items():
        reports[name] = sample(each, _ProgressOnly(reporter))
        rows.append(measure.row(name, reports[name], rows[0] if rows else None))
        reporter.note(rows[-1].line())
    draw_grid(request.output / GRID, [Path(report.output) for report in reports.values()], rows)
    draw_switches(request.output / SWITCHES, reports["dynamic"])
    return DemoReport(
        output=str(request.output),
        num_images=request.num_images,
        num_reference=measure.num_reference,
        rows=tuple(rows),
        dynamic=reports["dynamic"],
    )


class _ProgressOnly:
    """Reporter that leaves out remarks on settings, which users of the demo have not chosen."""

    def __init__(self, reporter: Reporter) -> None:
        self.progress = reporter.progress

    def note(self, text: str) -> None:
        """Leave it out."""


class _Measure:
    """Scores and errors of variants; the exact path is computed once, when the first variant needs it.

    Args:
        requests: Settings of `sample` by variant.
        reporter: Receives progress.
    """

    def __init__(self, requests: Mapping[str, SampleRequest], reporter: Reporter) -> None:
        first = next(iter(requests.values()))
        self._device = pick_device(first.device)
        self._setups = {name: set_up(each, self._device.type) for name, each in requests.items()}
        self._indices = range(min(MOST_COMPARED, first.num_images))
        self._reporter = reporter
        self._exact: Any = None
        self.num_reference = 0

    def row(self, name: str, report: SampleReport, papers: DemoRow | None) -> DemoRow:
        """Measure a finished variant; `papers` is the row of the first, if this is another."""
        folder, reporter = Path(report.output), _ProgressOnly(self._reporter)
        request = ScoreRequest(samples=folder, metrics=("fid",), features=FeatureOptions(no_cache=True))
        found = score_samples(request, reporter)
        keep_scores(found.to_json(), reporter)
        self.num_reference = found.num_reference or 0
        fid = found.scores.values["fid"]
        assert fid is not None  # the bundled extractor has the features FID needs
        estimate = found.scores.errors.get("fid")
        gmacs = report.gmacs_per_image
        return DemoRow(
            variant=name,
            mediators=report.counts,
            nfe=report.nfe,
            gmacs_per_image=gmacs,
            saving_percent=0.0 if papers is None else 100 * (1 - gmacs / papers.gmacs_per_image),
            images_per_sec=report.images_per_sec,
            error=self._error(name),
            fid=fid,
            fid_standard_error=estimate.standard_error if estimate else None,
            label_agreement_percent=100 * label_agreement(folder),
            switch_steps_mean=report.switch_steps_mean,
        )

    def _error(self, name: str) -> float | None:
        """Return the mean relative distance to the exact path; None if the sampler follows none."""
        plan = self._setups[name].plan
        if not follows_path(plan.sampler):
            return None
        plan = replace(plan, batch_size=min(plan.batch_size, len(self._indices)))
        model = self._setups[name].networks[0].load(device=self._device)
        if self._exact is None:
            self._exact = fine_latents(ladder_networks(model, (0,))[0], plan, self._indices, device=self._device)
        networks = ladder_networks(model, plan.schedule.counts)
        made = final_latents(list(generate(networks, plan, self._indices, device=self._device)))
        return float(relative_errors(made, self._exact).mean())


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

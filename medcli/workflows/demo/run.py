"""Compare the papers' sampling of a bundled model with few network calls and with mediators, at two sizes."""

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
from medcli.data.assets import BUNDLES, bundled_model
from medcli.engine.fine_path import final_latents, fine_latents, follows_path, relative_errors
from medcli.engine.generate import generate
from medcli.engine.image_records import read_records
from medcli.engine.networks import ladder_networks
from medcli.engine.pictures import read_png
from medcli.engine.plan import FAMILY_SAMPLERS
from medcli.errors import ConfigError
from medcli.runtime.device import pick_device
from medcli.runtime.reporting import Reporter
from medcli.scores.classifier import class_labels
from medcli.scores.registry import load_extractor
from medcli.settings.network import NetworkSource
from medcli.settings.pages import DemoRequest
from medcli.settings.sampler import PAPER_STEPS
from medcli.settings.sampling import SampleRequest
from medcli.settings.scoring import FeatureOptions, ScoreRequest
from medcli.workflows.demo.pictures import NUM_COLUMNS, draw_grid, draw_switches
from medcli.workflows.demo.report import GRID, LARGE_GRID, SWITCHES, DemoReport, DemoRow
from medcli.workflows.fid.kept import keep_scores
from medcli.workflows.fid.run import score_samples
from medcli.workflows.sample.report import SampleReport
from medcli.workflows.sample.run import sample
from medcli.workflows.sample.settings import set_up

MOST_COMPARED = 4
"""Images whose distance to the exact path is measured."""
ENLARGED = 2
"""The larger size, in the model's own."""


def demo_variants(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Return the settings of `sample` of each variant: the papers' run, and what fewer calls and mediators make of it.

    Args:
        config: The bundled model; its header has the number of calls and the thresholds.
    """
    first, few = FAMILY_SAMPLERS[config.family]
    middle = config.mediators[len(config.mediators) // 2]
    dense = {"sampler": few, "schedule": "full"}
    mediated = {"sampler": few, "schedule": "static", "mediators": (middle,)}
    large = config.resolution_px * ENLARGED
    return {
        f"dense, {PAPER_STEPS} steps": {"sampler": first, "steps": PAPER_STEPS, "schedule": "full"},
        "dense": dense,
        f"{middle} early, then dense": {"sampler": few, "schedule": "timed", "mediators": (middle, 0), "at": (0.5,)},
        f"{middle} mediators": mediated,
        "dynamic": {"sampler": first, "schedule": "dynamic"},
        f"dense, {large} px": {**dense, "res": large},
        f"{middle} mediators, {large} px": {**mediated, "res": large},
    }


def run_demo(request: DemoRequest, reporter: Reporter) -> DemoReport:
    """Sample and score every variant, and draw three pictures.

    Raises:
        ConfigError: If no bundle has that name, there are too few images, or the output belongs to another run.
        EnvironmentProblem: If a bundled file is missing, or the output can't be written.
    """
    if request.num_images < NUM_COLUMNS:
        raise ConfigError(f"--num-images must be at least {NUM_COLUMNS} to be scored, got {request.num_images}")
    checkpoint = bundled_model(request.bundle)
    if checkpoint is None:
        raise ConfigError(f"no bundled model {request.bundle!r}", hint=f"try {' or '.join(BUNDLES)}")
    config = describe(checkpoint).config
    requests = {name: _request(request, name, settings) for name, settings in demo_variants(config).items()}
    measure = _Measure(request.bundle, requests, reporter)
    reports: dict[str, SampleReport] = {}
    rows: list[DemoRow] = []
    reporter.note(f"{len(requests)} variants of {request.num_images} images each; their scores as they come:")
    for name, each in requests.items():
        reports[name] = sample(each, _ProgressOnly(reporter))
        res = each.network.res or config.resolution_px
        rows.append(measure.row(name, reports[name], res, next((row for row in rows if row.res == res), None)))
        reporter.note(rows[-1].line())
    for file, is_own in ((GRID, True), (LARGE_GRID, False)):
        shown = [row for row in rows if (row.res == config.resolution_px) is is_own]
        draw_grid(request.output / file, [Path(reports[row.variant].output) for row in shown], shown)
    draw_switches(request.output / SWITCHES, reports["dynamic"])
    return DemoReport(
        output=str(request.output),
        num_reference=measure.num_reference,
        rows=tuple(rows),
        dynamic=reports["dynamic"],
    )


def _request(request: DemoRequest, name: str, settings: Mapping[str, Any]) -> SampleRequest:
    """Return the request of one variant; at the larger size it has fewer images."""
    res = settings.get("res")
    return SampleRequest(
        network=NetworkSource(checkpoint=request.bundle, res=res),
        num_images=max(NUM_COLUMNS, request.num_images // 3) if res else request.num_images,
        seed=request.seed,
        device=request.device,
        output=request.output / re.sub(r"\W+", "-", name),
        **{key: value for key, value in settings.items() if key != "res"},
    )


class _ProgressOnly:
    """Reporter that leaves out remarks on settings, which users of the demo have not chosen."""

    def __init__(self, reporter: Reporter) -> None:
        self.progress = reporter.progress

    def note(self, text: str) -> None:
        """Leave it out."""

    def warn(self, text: str) -> None:
        """Leave it out."""


class _Measure:
    """Scores and errors of variants; the exact path is computed once, when the first variant needs it.

    Args:
        bundle: Name of the bundled model.
        requests: Settings of `sample` by variant.
    """

    def __init__(self, bundle: str, requests: Mapping[str, SampleRequest], reporter: Reporter) -> None:
        self._bundle, self._requests = bundle, requests
        first = next(iter(requests.values()))
        self._device = pick_device(first.device)
        self._setups = {name: set_up(each, self._device.type) for name, each in requests.items()}
        self._indices = range(min(MOST_COMPARED, first.num_images))
        self._reporter = reporter
        self._exact: Any = None
        self.num_reference = 0

    def row(self, name: str, report: SampleReport, res: int, first: DemoRow | None) -> DemoRow:
        """Measure a finished variant; `first` is the row of the first of its size, if this is another."""
        folder, gmacs = Path(report.output), report.gmacs_per_image
        is_own = self._requests[name].network.res is None
        fid, error = self._fid(folder) if is_own else (None, None)
        return DemoRow(
            variant=name,
            res=res,
            num_images=report.num_images,
            mediators=report.counts,
            nfe=report.nfe,
            gmacs_per_image=gmacs,
            saving_percent=0.0 if first is None else 100 * (1 - gmacs / first.gmacs_per_image),
            images_per_sec=report.images_per_sec,
            error=self._error(name) if is_own else None,
            fid=fid,
            fid_standard_error=error,
            label_agreement_percent=100 * label_agreement(folder, self._bundle),
            switch_steps_mean=report.switch_steps_mean,
        )

    def _fid(self, folder: Path) -> tuple[float | None, float | None]:
        """Return FID and its standard error."""
        reporter = _ProgressOnly(self._reporter)
        request = ScoreRequest(samples=folder, metrics=("fid",), features=FeatureOptions(no_cache=True))
        found = score_samples(request, reporter)
        keep_scores(found.to_json(), reporter)
        self.num_reference = found.num_reference or 0
        estimate = found.scores.errors.get("fid")
        return found.scores.values["fid"], estimate.standard_error if estimate else None

    def _error(self, name: str) -> float | None:
        """Return the mean relative distance to the exact path; None if the sampler follows none."""
        plan = self._setups[name].plan
        if not follows_path(plan.sampler):
            return None
        plan = replace(plan, batch_size=min(plan.batch_size, len(self._indices)))
        model = self._setups[name].networks[0].load(device=self._device, dtype=torch.float32)
        if self._exact is None:
            self._exact = fine_latents(ladder_networks(model, (0,))[0], plan, self._indices, device=self._device)
        networks = ladder_networks(model, plan.schedule.counts)
        made = final_latents(list(generate(networks, plan, self._indices, device=self._device)))
        return float(relative_errors(made, self._exact).mean())


def label_agreement(folder: Path, extractor: str) -> float:
    """Return the share of images that a bundled classifier assigns to the requested class, in [0, 1].

    Args:
        folder: A finished sample folder of the bundled model.
        extractor: Name of the classifier.
    """
    records = [record for record in read_records(folder) if record]
    images_BYXC = np.stack([read_png(folder / record.file) for record in records])
    read_B = class_labels(torch.from_numpy(images_BYXC), load_extractor(extractor))
    return float((read_B == torch.tensor([record.label for record in records])).double().mean())

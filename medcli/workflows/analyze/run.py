"""Analyse a model while it samples: redundancy of its attention, and change of its latents."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from medcli.config import ModelConfig
from medcli.diffusion.steps import Sampler, build_sampler
from medcli.engine.attention_observer import AttentionObserver
from medcli.engine.batched_rule import num_deciding
from medcli.engine.generate import generate
from medcli.engine.networks import ladder_networks
from medcli.engine.observer import Distances, Observer, Together
from medcli.engine.threshold_replay import triggers
from medcli.errors import ConfigError
from medcli.ladder import listing, ranges
from medcli.model.backbone import DiffusionTransformer
from medcli.model.layout import blocks
from medcli.network import note_remarks
from medcli.runtime.device import use_device
from medcli.runtime.files import atomic_folder, refuse_existing
from medcli.runtime.precision import DTYPES, number_format, products_of, warn_if_slow
from medcli.runtime.reporting import Reporter
from medcli.scores.redundancy import num_rings
from medcli.settings.analysis import AnalyzeRequest
from medcli.settings.records import given_values
from medcli.settings.sampler import ADAPTIVE_SOLVERS
from medcli.settings.sampling import SampleRequest
from medcli.settings.values import check_values
from medcli.workflows.analyze.attention import Floats, average, falls_with_progress, redundant_early
from medcli.workflows.analyze.pictures import draw_change, draw_map
from medcli.workflows.analyze.report import AnalyzeReport, AttentionFindings
from medcli.workflows.analyze.suggestion import Suggestion, suggest
from medcli.workflows.sample.settings import SampleSetup, image_settings, model_name, set_up

ANALYSIS, MAP, CHANGE = "analysis.json", "redundancy.png", "change.png"
"""Files of the output folder."""


def analyze(request: AnalyzeRequest, reporter: Reporter) -> AnalyzeReport:
    """Sample with full attention, observe it, and write the results into a new folder.

    Raises:
        MedcliError: For anything the user can fix; then nothing is left behind.
    """
    device = use_device(request.sampling.device)
    dtype = number_format(request.sampling.dtype, device)
    request = replace(request, sampling=replace(request.sampling, dtype=dtype))
    setup = set_up(request.sampling, device.type, reads_distances=True)
    note_remarks(setup.networks, reporter)
    setup = replace(setup, plan=replace(setup.plan, batch_size=min(setup.plan.batch_size, request.sampling.num_images)))
    sampler = _check(request, setup)
    stem, seed = Path(setup.networks[0].name).stem, request.sampling.seed
    output = request.output or Path("analysis") / f"{stem}-{seed}"
    refuse_existing(output, force=request.force)
    warn_if_slow(DTYPES[dtype], device, reporter)
    # The folder is created before the work, and gets its name once it is complete.
    with atomic_folder(output, force=request.force, mark=ANALYSIS) as folder:
        model = setup.networks[0].load(device=device, dtype=DTYPES[dtype])
        with products_of(dtype):
            distances, watch = _observe(request, setup, model, sampler, reporter)
        attention = None if watch is None else _findings(watch, setup, request.pairs, sampler.num_steps)
        report = _report(request, setup, output, sampler, distances, attention)
        _write(folder, report)
    return report


def _check(request: AnalyzeRequest, setup: SampleSetup) -> Sampler:
    """Check the request before loading anything, and return the sampler."""
    check_values(request)
    if setup.plan.schedule.kind != "full":
        raise ConfigError("analyze needs full attention", hint='sample with schedule="full"')
    solver = setup.plan.sampler.solver
    if solver in ADAPTIVE_SOLVERS:
        raise ConfigError(
            f"--solver {solver} chooses its own steps, so there are no fixed ones to observe", hint="use --solver heun"
        )
    sampler = build_sampler(setup.plan.sampler)
    if request.warmup_steps + 1 >= num_deciding(sampler):
        raise ConfigError(
            f"{sampler.num_steps} solver steps leave none for a threshold after a warm-up of {request.warmup_steps}",
            hint="use more --steps, or fewer --warmup-steps",
        )
    return sampler


def _observe(
    request: AnalyzeRequest, setup: SampleSetup, model: DiffusionTransformer, sampler: Sampler, reporter: Reporter
) -> tuple[dict[str, Floats], AttentionObserver | None]:
    """Sample with observers and return their results; the images are discarded."""
    indices, networks = range(request.sampling.num_images), ladder_networks(model, setup.plan.schedule.counts)
    distances, watch = Distances(indices, sampler.num_steps), None
    observers: list[Observer] = [distances]
    if request.attention:
        steps = observed_steps(sampler.num_steps, request.points)
        watch = AttentionObserver(model, indices, steps, seed=setup.plan.seed, max_pairs=request.pairs)
        networks = tuple(map(watch.wrapped, networks))
        observers.append(watch)
    device, observer = model.pos_embed.device, Together(observers)
    for _ in generate(networks, setup.plan, indices, device=device, observer=observer, reporter=reporter):
        pass
    return distances.distance_IL, watch


def observed_steps(num_steps: int, points: int) -> tuple[int, ...]:
    """Return rising solver steps, evenly spaced from the first to the last.

    Args:
        num_steps: Solver steps of an image.
        points: Most steps.
    """
    return tuple(sorted({round(place) for place in np.linspace(0, num_steps - 1, points)}))


def _findings(watch: AttentionObserver, setup: SampleSetup, max_pairs: int, num_steps: int) -> AttentionFindings:
    num_tokens = tuple(block.num_tokens for block in blocks(setup.config))
    seen = average(watch.layers, num_tokens)
    return AttentionFindings(
        seen=seen,
        steps=watch.steps,
        progress=tuple(step / num_steps for step in watch.steps),
        is_exact=all(num_rings(tokens, max_pairs) == tokens // 2 for tokens in num_tokens),
        pair_error=max(float(layer.error_ILH.max()) for layer in watch.layers),
        observations={"redundant_early": redundant_early(seen), "falls_with_progress": falls_with_progress(seen)},
        suggestion=suggest(seen, setup.config),
    )


def _report(
    request: AnalyzeRequest,
    setup: SampleSetup,
    output: Path,
    sampler: Sampler,
    distances: dict[str, Floats],
    attention: AttentionFindings | None,
) -> AnalyzeReport:
    settings = image_settings(setup, request.sampling)
    warmup, deciding = request.warmup_steps, num_deciding(sampler)
    return AnalyzeReport(
        output=str(output),
        model=model_name(setup.networks[0].opened.info),
        settings={**settings, "max_pairs": request.pairs if attention else None},
        given=given_values(request.sampling),
        num_images=request.sampling.num_images,
        num_steps=sampler.num_steps,
        attention=attention,
        distances=distances,
        triggers={
            name: triggers(distance_IL, sorted(request.rho, reverse=True), warmup_steps=warmup, num_deciding=deciding)
            for name, distance_IL in distances.items()
        },
        warmup_steps=warmup,
        convert=None if attention is None else _convert_line(request.sampling, setup.config, attention.suggestion),
    )


def _convert_line(request: SampleRequest, config: ModelConfig, suggestion: Suggestion) -> str | None:
    """Return the command that applies the suggestion; None without one, or for a model that has mediators."""
    if request.network.checkpoint is None or config.mediators or not suggestion.layers:
        return None
    words = ["medcli", "convert", str(request.network.checkpoint)]
    words += ["--family", request.network.family] if request.network.family else []
    words += ["--heads", str(request.network.heads)] if request.network.heads else []
    words += ["--layers", ranges(suggestion.layers), "--mediators", listing(suggestion.mediators)]
    return shlex.join(words)


def _write(folder: Path, report: AnalyzeReport) -> None:
    title = f"{report.model}: {report.num_images} images, {report.num_steps} solver steps"
    if report.attention is not None:
        draw_map(folder / MAP, report.attention.seen, report.attention.progress, title)
    draw_change(folder / CHANGE, report.distances, report.triggers, report.warmup_steps, title)
    content = json.dumps(report.to_file(), sort_keys=True)
    (folder / ANALYSIS).write_text(content + "\n", encoding="utf-8")

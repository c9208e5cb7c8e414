"""The commands that make again what a page shows, from what its files say about themselves."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from medcli.config import listing
from medcli.data.assets import BUNDLED_MODEL
from medcli.engine.networks import Guidance
from medcli.errors import ConfigError
from medcli.network import open_network
from medcli.sampler_config import SamplerConfig
from medcli.schedule.spec import Schedule
from medcli.settings.network import NetworkSource
from medcli.workflows.image_cost import SamplingRun
from medcli.workflows.report.json_access import Json, look_up, number, rows_of, text

MOST_CLASSES = 100
"""So many classes from 0 on are all there are."""
INTEGRATED = ("solver", "path", "prediction")
"""Settings of `sde` and `ode`; the command refuses what decides nothing."""
NOISED = ("diffusion_form", "diffusion_norm", "last_step", "last_step_size")
"""Settings of `sde` alone."""


def sample_command(folder: str, manifest: Json, run: SamplingRun) -> str:
    """The `medcli sample` line of a folder.

    Args:
        folder: Its name.
        manifest: What stands in its manifest.
        run: The same, checked.
    """
    settings = manifest["settings"]
    words = ["medcli", "sample", *_checkpoints(rows_of(settings["checkpoints"]), run.schedule)]
    words += [*_schedule(run.schedule), *_making(settings, run.sampler, run.guidance)]
    if isinstance(settings.get("autoencoder"), str):
        words += ["--vae", settings["autoencoder"]]
    return shlex.join([*words, "--num-images", str(manifest.get("num_images")), "-o", folder])


def analyze_command(folder: str, found: Json) -> str | None:
    """The `medcli analyze` line of an analysis; None where its settings are not those of this version.

    Args:
        folder: Where it stands.
        found: What `analysis.json` holds.
    """
    try:
        settings = found["settings"]
        sampler, guidance = SamplerConfig(**settings["sampler"]), Guidance(**(settings["guidance"] or {}))
        files = _checkpoints(rows_of(settings["checkpoints"]), Schedule(kind="full"))
        words = ["medcli", "analyze", *files, *_making(settings, sampler, guidance)]
        change = found["latent_change"]
        thresholds = next(iter(change["distances"].values()))["thresholds"]
        words += ["--rho", ",".join(f"{row['rho']:g}" for row in thresholds)]
        words += ["--warmup-steps", str(change["warmup_steps"])]
        if "steps" in found:
            words += ["--points", str(len(found["steps"])), "--pairs", str(settings["max_pairs"])]
        else:
            words.append("--no-attention")
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration, ConfigError):
        return None
    return shlex.join([*words, "--num-images", str(found.get("num_images")), "-o", folder])


def fid_commands(rows: Sequence[Json]) -> tuple[str, ...]:
    """A `medcli fid` line for all reports that share a reference; an extractor's weights are known by hash alone."""
    groups: dict[tuple[str, str, float | None], list[str]] = {}
    for row in rows:
        key = (text(row.get("reference")), text(row.get("extractor")), number(row.get("num_samples")))
        groups.setdefault(key, []).append(text(row.get("samples")))
    return tuple(_fid(key, list(dict.fromkeys(samples))) for key, samples in groups.items())


def _fid(shared: tuple[str, str, float | None], samples: list[str]) -> str:
    reference, extractor, num = shared
    words = [*samples, reference] if len(samples) == 1 else ["--compare", *samples, "--reference", reference]
    words += ["--extractor", extractor, *(["--num-images", f"{num:.0f}"] if num is not None and num >= 2 else [])]
    return shlex.join(["medcli", "fid", *words, "--json"])


def _checkpoints(entries: list[Json], schedule: Schedule) -> list[str]:
    files = [text(one.get("file")) for one in entries]
    if len(files) == 1:
        return [] if files[0] == BUNDLED_MODEL and _is_bundled(entries[0]) else files
    stages = zip(schedule.counts, files, strict=False)
    return [word for count, file in stages for word in ("--stage", f"{count}={file}")]


def _making(settings: Json, sampler: SamplerConfig, guidance: Guidance) -> list[str]:
    """What images are made of and how, but for the schedule."""
    words = ["--weights", text(settings["weights"])] if settings.get("weights") else []
    words += [*_sampler(sampler), "--cfg-scale", f"{guidance.scale:g}"]
    if guidance.is_on:
        words += ["--cfg-channels", "all" if guidance.channels is None else str(guidance.channels)]
        if guidance.is_partial:
            words += ["--cfg-interval", ",".join(f"{end:g}" for end in guidance.interval)]
    words += _labels(look_up(settings, "labels"))
    if text(settings.get("dtype")) not in ("-", "fp32"):
        words += ["--dtype", settings["dtype"]]
    return [*words, "--seed", str(settings.get("seed", 0))]


def _is_bundled(recorded: Json) -> bool:
    """Check whether a recorded checkpoint is the bundled model of this installation."""
    return open_network(NetworkSource()).identity(recorded) == recorded


def _schedule(schedule: Schedule) -> list[str]:
    words = ["--schedule", schedule.kind]
    if schedule.kind != "full":
        words += ["--mediators", listing(schedule.counts)]
    if schedule.is_dynamic:
        words += ["--rho", ",".join(f"{value:g}" for value in schedule.rho)]
        words += ["--warmup-steps", str(schedule.warmup_steps), "--distance", schedule.distance]
    return words


def _sampler(config: SamplerConfig) -> list[str]:
    names = {"sde": INTEGRATED + NOISED, "ode": INTEGRATED}.get(config.sampler, ())
    if config.last_step == "none":
        names = tuple(name for name in names if name != "last_step_size")
    words = ["--sampler", config.sampler, "--steps", str(config.steps)]
    for name in names:
        words += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    return words


def _labels(labels: object) -> list[str]:
    classes, sampling = look_up(labels, "classes"), look_up(labels, "sampling")
    words = []
    if isinstance(classes, list) and all(type(label) is int for label in classes):
        is_all = len(classes) >= MOST_CLASSES and classes == list(range(len(classes)))
        words += ["--classes", "all" if is_all else listing(tuple(classes))]
    return [*words, "--label-sampling", sampling] if isinstance(sampling, str) else words

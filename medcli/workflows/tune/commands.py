"""The command lines that make images as a configuration promises."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from medcli.config import listing
from medcli.tuning.space import Configuration, Layers, listing_of
from medcli.workflows.tune.setup import TuneSetup

READING_FLAGS = {"family": "--family", "heads": "--heads"}
"""How to read a checkpoint that is not ours."""
SAMPLING_FLAGS = {
    "sampler": "--sampler",
    "solver": "--solver",
    "steps": "--steps",
    "path": "--path",
    "prediction": "--prediction",
    "diffusion_form": "--diffusion-form",
    "diffusion_norm": "--diffusion-norm",
    "last_step": "--last-step",
    "last_step_size": "--last-step-size",
    "cfg_channels": "--cfg-channels",
    "cfg_interval": "--cfg-interval",
    "batch_size": "--batch-size",
    "device": "--device",
    "vae": "--vae",
}
"""Flags that are passed on as they were given. Guidance, classes and seed are always written out or have one default:
a conversion leaves some of a checkpoint's defaults behind."""


def converted_file(setup: TuneSetup, layers: Layers) -> Path | None:
    """Where the checkpoint with these layers stands; None where the one that was given has exactly them."""
    if not setup.is_dense and layers in ((), setup.held.mediator_layers):
        return None
    if not layers:
        return None
    return setup.request.output / f"layers-{'-'.join(map(str, layers))}.safetensors"


def convert_command(setup: TuneSetup, layers: Layers) -> str | None:
    """The line that makes the checkpoint a configuration runs on; None where there is nothing to make."""
    file = converted_file(setup, layers)
    if file is None:
        return None
    words = ["medcli", "convert", str(setup.ladder_file), "--layers", listing(layers), "-o", str(file), "--force"]
    return shlex.join(words if setup.is_dense else [*words, *_reading(setup)])


def sample_command(setup: TuneSetup, configuration: Configuration) -> str:
    """The line that samples the images a configuration was measured on: the same seed, numbers and settings."""
    sampling = setup.request.sampling
    file = converted_file(setup, configuration.layers)
    words = ["medcli", "sample"]
    if file is not None:
        words.append(str(file))
    elif sampling.network.checkpoint is not None:
        words += [str(sampling.network.checkpoint), *_reading(setup)]
    words += _schedule(setup, configuration)
    words += _given(sampling, SAMPLING_FLAGS)
    words += ["--cfg-scale", f"{setup.plan.guidance.scale!r}"]
    if sampling.classes is not None:
        words += ["--classes", listing(sampling.classes)]
    if sampling.label_sampling != "equal":
        words += ["--label-sampling", sampling.label_sampling]
    if sampling.dtype != "fp32":
        words += ["--dtype", sampling.dtype]
    words += ["--num-images", str(sampling.num_images), "--seed", str(sampling.seed)]
    return shlex.join([*words, "-o", str(setup.request.output / "samples" / configuration.name)])


def _schedule(setup: TuneSetup, configuration: Configuration) -> list[str]:
    if not configuration.layers:
        return ["--schedule", "full"]
    counts = ["--mediators", listing(configuration.counts)]
    if not configuration.rho:
        return ["--schedule", "static", *counts]
    schedule = setup.plan.schedule
    rule = ["--warmup-steps", str(schedule.warmup_steps), "--distance", schedule.distance]
    return ["--schedule", "dynamic", *counts, "--rho", listing_of(configuration.rho), *rule]


def _reading(setup: TuneSetup) -> list[str]:
    sampling = setup.request.sampling
    weights = ["--weights", str(sampling.network.weights)] if sampling.network.weights != "ema" else []
    return [*_given(sampling.network, READING_FLAGS), *weights]


def _given(sampling: object, flags: dict[str, str]) -> list[str]:
    """Flags and values of the fields that were given."""
    words: list[str] = []
    for name, flag in flags.items():
        value = getattr(sampling, name)
        if value is not None:
            words += [flag, _text(value)]
    return words


def _text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(f"{part!r}" for part in value)
    return str(value)

"""Commands that generate the images of a configuration."""

from __future__ import annotations

import shlex
from pathlib import Path

from medcli.ladder import listing
from medcli.settings.build import words_of
from medcli.settings.declare import settings_of
from medcli.settings.records import given_values, image_values, repeated_command
from medcli.settings.sampling import SampleRequest
from medcli.tuning.space import Configuration, Layers
from medcli.workflows.tune.setup import TuneSetup

READING = ("family", "heads", "weights")
"""Settings that say how to read a checkpoint of other programs."""


def converted_file(setup: TuneSetup, layers: Layers) -> Path | None:
    """Return the path of the checkpoint with these layers; None if the given one has exactly them."""
    if not setup.is_dense and layers in ((), setup.held.mediator_layers):
        return None
    if not layers:
        return None
    return setup.request.output / f"layers-{'-'.join(map(str, layers))}.safetensors"


def convert_command(setup: TuneSetup, layers: Layers) -> str | None:
    """Return the command that converts the checkpoint for a configuration; None if none is needed."""
    file = converted_file(setup, layers)
    if file is None:
        return None
    words = ["medcli", "convert", str(setup.ladder_file), "--layers", listing(layers), "-o", str(file), "--force"]
    return shlex.join(words if setup.is_dense else [*words, *_reading(setup)])


def sample_command(setup: TuneSetup, configuration: Configuration) -> str:
    """Return the command that samples the images a configuration was measured on: same seed, numbers and settings."""
    sampling, carried = setup.request.sampling, setup.plan.schedule
    schedule = configuration.schedule(carried.warmup_steps, carried.distance)
    values = image_values({**setup.settings, "schedule": schedule.to_json()}, given_values(sampling))
    if (file := converted_file(setup, configuration.layers)) is not None:
        values = {key: value for key, value in values.items() if key not in READING} | {"checkpoint": str(file)}
    machine = {"batch_size": sampling.batch_size, "device": sampling.device}
    values |= {key: value for key, value in machine.items() if value is not None}
    output = setup.request.output / "samples" / configuration.name
    values |= {"num_images": sampling.num_images, "output": str(output)}
    first = {key: values[key] for key in ("checkpoint",) if key in values}
    return repeated_command("sample", SampleRequest, {**first, **values})


def _reading(setup: TuneSetup) -> list[str]:
    """Return the flags that say how to read the given checkpoint."""
    source, declared = setup.request.sampling.network, settings_of(SampleRequest)
    values = {"family": source.family, "heads": source.heads, "weights": source.weights}
    given = {key: value for key, value in values.items() if value not in (None, declared[key].default)}
    return [word for key, value in given.items() for word in words_of(declared[key], value)]

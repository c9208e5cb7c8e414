"""Training data that the dense parent draws itself: `medcli finetune --data self`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from medcli.data.datasets import open_training_set
from medcli.data.sampled_latents import FOLDER, INDEX
from medcli.data.training_set import ArraySet, TrainingSet
from medcli.errors import ConfigError
from medcli.network import Network
from medcli.runtime.processes import this_process
from medcli.runtime.reporting import Reporter
from medcli.runtime.shared_work import POLL_S
from medcli.settings.finetune import SELF, FinetuneRequest
from medcli.settings.network import NetworkSource
from medcli.settings.sampler import SamplerSettings
from medcli.settings.sampling import SampleRequest
from medcli.workflows.sample.defaults import sampling_defaults
from medcli.workflows.sample.few_calls import few_calls_sampler
from medcli.workflows.sample.run import sample

SAMPLES = "self-data"
"""Sample folder of the data in that of the run."""
DEFAULT_NUM = 10_000
"""Number of images, as CLEAR and LinFusion found enough to change a transformer's attention."""


def of_its_parent(request: FinetuneRequest, start: Network) -> FinetuneRequest:
    """Return a request for self-made data with the dense parent as its teacher; any other request unchanged.

    Raises:
        ConfigError: If there is no parent, or it draws other images than the trained network takes.
    """
    if request.data_name != SELF:
        return request
    if start.info is None:
        raise ConfigError(
            f"--data {SELF} needs a trained model that draws the images, and this one starts from random weights",
            hint="name a checkpoint, or other data",
        )
    own, config = start.info.config, start.config
    changes = (("res", "resolution_px"), ("num-classes", "num_classes"))
    for flag, name in changes:
        theirs, ours = getattr(own, name), getattr(config, name)
        if theirs != ours:
            raise ConfigError(
                f"--data {SELF} and --{flag} {ours} contradict each other: {start.name} draws images for {theirs}",
                hint=f"leave --{flag} out, or train on real data first",
            )
    return request if request.distill is not None else replace(request, distill=start.info.path)


def open_data(
    request: FinetuneRequest, start: Network, output: Path, device: torch.device, reporter: Reporter
) -> TrainingSet:
    """Open the training data, drawn first if they are the model's own; `--dry-run` draws nothing.

    Raises:
        MedcliError: If the data or the parent can't be used.
    """
    name = request.data_name
    if name == SELF and request.dry_run:
        return _stand_in(request, start)
    if name == SELF:
        name = str(_drawn(request, start, output, reporter))
    return open_training_set(
        name, start.config, autoencoder=start.autoencoder, device=device, flip=request.flip, reporter=reporter
    )


def _drawn(request: FinetuneRequest, start: Network, output: Path, reporter: Reporter) -> Path:
    """Draw the missing images, and return the folder of their latents."""
    wanted = drawing_request(request, start, output)
    reporter.note(f"{start.name} draws {wanted.num_images} images of its own into {wanted.output}")
    sample(wanted, reporter)
    folder = output / SAMPLES / FOLDER
    while not (this_process().is_first or (folder / INDEX).is_file()):  # which rank 0 writes
        time.sleep(POLL_S)
    return folder


def drawing_request(request: FinetuneRequest, start: Network, output: Path) -> SampleRequest:
    """Return the request that draws the data: full attention, few calls, no guidance.

    Guided images would be trained on as if the model's unguided output were theirs, and guided again when sampled.
    """
    assert start.info is not None
    few = few_calls_sampler(SamplerSettings(), start.config, sampling_defaults(start))
    return SampleRequest(
        network=NetworkSource(checkpoint=start.info.path, family=start.config.family, weights=start.info.weights),
        schedule="full",
        sampler=few.sampler,
        solver=few.solver,
        steps=few.steps,
        cfg_scale=1.0,
        num_images=request.num_images or DEFAULT_NUM,
        seed=request.training.seed,
        vae=start.autoencoder,
        device=request.device,
        latents=True,
        output=output / SAMPLES,
    )


def _stand_in(request: FinetuneRequest, start: Network) -> ArraySet:
    """Return zeros in the place of data that are not drawn yet."""
    config, count = start.config, request.num_images or DEFAULT_NUM
    zero_CYX = torch.zeros(1, config.in_channels, config.latent_size, config.latent_size)
    return ArraySet(SELF, zero_CYX.expand(count, -1, -1, -1), torch.arange(count) % config.num_classes)

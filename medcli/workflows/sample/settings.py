"""Fill in and check a request of `sample`: its networks, plan and output folder."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcli.checkpoint.reader import CheckpointInfo
from medcli.config import ModelConfig
from medcli.engine.networks import Guidance
from medcli.engine.plan import SamplingPlan
from medcli.engine.plan_file import plan_file
from medcli.errors import ConfigError
from medcli.model.amm import Amm
from medcli.network import Network, identities, open_network, with_autoencoder
from medcli.settings.sampling import SampleRequest
from medcli.workflows.sample.amm import choose_amm
from medcli.workflows.sample.plan import TRAINED_ON, default_batch_size, make_plan


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSetup:
    """A request with everything filled in and checked, before anything is loaded."""

    networks: tuple[Network, ...]
    """The checkpoint of each ladder index; one for all if there is only one."""
    plan: SamplingPlan
    amm: Amm | None
    output: Path

    @property
    def config(self) -> ModelConfig:
        """The model's geometry; separately trained stages share it."""
        return self.networks[0].config

    @property
    def class_names(self) -> dict[str, str]:
        """Names of the classes that are sampled, by their numbers; empty if the model has none."""
        info = self.networks[0].info
        names = info.class_names if info else ()
        return {str(label): names[label] for label in sorted(set(self.plan.labels.classes))} if names else {}

    @property
    def configs(self) -> tuple[ModelConfig, ...]:
        """The model of each ladder index."""
        counts = self.plan.schedule.counts
        return (
            tuple(network.config for network in self.networks)
            if len(self.networks) > 1
            else (self.config,) * len(counts)
        )


def set_up(
    request: SampleRequest, device_type: str, *, reads_distances: bool = False, earlier: SampleSetup | None = None
) -> SampleSetup:
    """Fill in and check a request, reading no weights.

    Args:
        device_type: `cpu`, `cuda` or `mps`, for the default batch size.
        reads_distances: See `choose_sampler`; a dynamic schedule does in any case.
        earlier: Result for another request on the same checkpoint, which is then not opened again.

    Raises:
        MedcliError: If a checkpoint can't be read, or values contradict each other or the model.
    """
    if request.num_images < 1:
        raise ConfigError(f"--num-images must be at least 1, got {request.num_images}")
    networks, held = _networks(request) if earlier is None else (earlier.networks, earlier.config.mediators)
    batch_size = request.batch_size or default_batch_size(networks[0].config, device_type)
    plan = make_plan(request, networks, held, batch_size, reads_distances=reads_distances)
    if request.vae is not None and networks[0].config.autoencoder is None:
        raise ConfigError("--vae does nothing with a model of pixels", hint="leave --vae out")
    amm = choose_amm(request, [network.config for network in networks])
    stem = "-".join(Path(network.name).stem for network in networks)
    output = request.output or Path("samples") / f"{stem}-{plan.schedule.kind}-{request.seed}"
    return SampleSetup(networks=networks, plan=plan, amm=amm, output=output)


def _networks(request: SampleRequest) -> tuple[tuple[Network, ...], tuple[int, ...]]:
    """Open the checkpoints; returns them and the ladder they form."""
    if not request.stages:
        network = with_autoencoder(open_network(request.network), request.vae, request.network.download)
        return (network,), network.config.mediators
    if request.network.checkpoint is not None:
        raise ConfigError(
            f"both a checkpoint ({request.network.checkpoint}) and --stage are given",
            hint=f"leave one out, or write --stage N={request.network.checkpoint}",
        )
    counts = tuple(sorted(request.stages, key=lambda count: count or math.inf))  # full attention is the last
    if request.mediators not in (None, counts):
        raise ConfigError("--stage already names the mediator counts", hint="leave --mediators out")
    networks = tuple(
        with_autoencoder(
            open_network(replace(request.network, checkpoint=request.stages[count])),
            request.vae,
            request.network.download,
        )
        for count in counts
    )
    for count, network in zip(counts, networks, strict=True):
        network.config.resolve_count(count)
    trained = [{name: network.sampling.get(name) for name in TRAINED_ON} for network in networks]
    if any(other != trained[0] for other in trained):
        raise ConfigError("the checkpoints of --stage were trained with another path or prediction each")
    return networks, counts


def model_name(info: CheckpointInfo) -> str:
    """Return a model's name for people: its preset, else its family and size."""
    return info.preset or f"{info.config.family}, {info.num_params:,} parameters"


def image_settings(setup: SampleSetup, request: SampleRequest, earlier: object = None) -> dict[str, Any]:
    """Return the resolved settings that decide the images, as JSON values; see `medcli.settings.records`.

    Two runs with equal settings may fill one folder.

    Args:
        earlier: `checkpoints` of a run to compare with: an older one that holds whole hashes is compared by those.
    """
    plan = setup.plan
    return {
        "checkpoints": identities(setup.networks, earlier),
        "weights": setup.networks[0].opened.info.weights,
        "schedule": plan.schedule.to_json(),
        "sampler": plan.sampler.to_json(),
        "guidance": _guidance_settings(plan.guidance),
        "amm": None if setup.amm is None else setup.amm.to_json(),
        "labels": {"classes": list(plan.labels.classes), "sampling": plan.labels.sampling},
        "seed": plan.seed,
        "dtype": request.dtype,
        "autoencoder": setup.networks[0].autoencoder or setup.config.autoencoder,
        **({} if request.plan is None else {"plan": plan_file(plan, setup.config).to_json()}),
    }


def _guidance_settings(guidance: Guidance) -> dict[str, Any] | None:
    if not guidance.is_on:
        return None
    settings: dict[str, Any] = {"scale": guidance.scale, "channels": guidance.channels}
    if guidance.is_partial:
        settings["interval"] = list(guidance.interval)
    if guidance.power is not None:
        settings["power"] = guidance.power
    return settings

"""Resolve and check the settings of `tune` against the checkpoint and its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medcli.checkpoint.writer import save_checkpoint
from medcli.config import ModelConfig
from medcli.data.autoencoder import open_decoder
from medcli.engine.effects import refuse_unreachable_moves
from medcli.engine.plan import SamplingPlan
from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer
from medcli.network import Network, changed, open_network
from medcli.runtime.json_records import read_json
from medcli.runtime.precision import DTYPES
from medcli.runtime.reporting import Reporter
from medcli.schedule.spec import DEFAULT_WARMUP_STEPS, Schedule
from medcli.settings.analysis import TuneRequest
from medcli.settings.checkpoints import ConvertRequest
from medcli.settings.network import NetworkSource
from medcli.settings.sampler import ADAPTIVE_SOLVERS
from medcli.settings.sampling import SampleRequest
from medcli.training.calibration import calibrate
from medcli.training.objective import LossConfig
from medcli.tuning.space import Layers
from medcli.tuning.store import SETTINGS
from medcli.workflows.convert import write_network
from medcli.workflows.sample.defaults import sampling_defaults
from medcli.workflows.sample.settings import image_settings, set_up
from medcli.workflows.tune.request import Budget, budget_of

LADDER_FILE = "ladder.safetensors"
"""A dense checkpoint with mediators in every layer that may be chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneSetup:
    """A request with all values resolved."""

    request: TuneRequest
    budget: Budget
    network: Network
    """The checkpoint that was given, or the bundled one, as it is."""
    ladder_file: Path
    """The checkpoint that holds every choice: the source, or what is made of it if that is dense."""
    config: ModelConfig
    """Configuration of the ladder file, reduced to the mediators and layers to choose from."""
    held: ModelConfig
    """Configuration of the ladder file."""
    plan: SamplingPlan
    """Sampling plan with full attention, and the warm-up and distance of dynamic schedules."""
    device: torch.device
    reference: str | None
    """Reference of FID."""
    settings: Mapping[str, Any]
    """All settings that decide measurements."""

    @property
    def layers(self) -> Layers:
        """Layers or mediator counts to choose from."""
        return self.config.mediator_layers

    @property
    def counts(self) -> tuple[int, ...]:
        """Layers or mediator counts to choose from."""
        return self.config.mediators

    @property
    def is_dense(self) -> bool:
        """True if the source has no mediators."""
        return self.ladder_file != self.source

    @property
    def source(self) -> Path:
        """Path of the checkpoint that was given, or of the bundled one."""
        return self.network.opened.info.path

    @property
    def numbers(self) -> range:
        """Indices of the images of finalists."""
        return range(self.request.sampling.num_images)

    @property
    def recorded(self) -> range:
        """Indices of the images whose trajectory is recorded."""
        return range(min(self.request.num_recorded, self.request.sampling.num_images))


def set_up_tuning(request: TuneRequest, device: torch.device) -> TuneSetup:
    """Resolve and check a request; of the weights only sampled bytes are read.

    Raises:
        MedcliError: If the checkpoint can't be read, or values contradict each other or the model.
    """
    budget, sampling = budget_of(request), request.sampling
    # How images are made does not depend on what is chosen; the rest is what is looked for.
    plain = replace(sampling, schedule="full", warmup_steps=None, distance=None)
    setup = set_up(plain, device.type)
    if setup.plan.sampler.solver in ADAPTIVE_SOLVERS:
        raise ConfigError(
            f"--solver {setup.plan.sampler.solver} chooses its own steps, so there are none to compare",
            hint="use --solver heun",
        )
    network = setup.networks[0]
    info = network.opened.info
    if request.calibrate and info.config.mediators:
        raise ConfigError(
            "--calibrate fits new mediators, and this checkpoint has trained ones", hint="leave --calibrate out"
        )
    if request.calibrate and info.config.family not in ("dit", "sit"):
        raise ConfigError(f"--calibrate is for dit and sit, this is a {info.config.family}", hint="leave it out")
    if sampling.vae is not None:  # the printed commands decode with it, whatever the runs are judged by
        open_decoder(info.config, autoencoder=sampling.vae)
    plan = replace(setup.plan, schedule=_carried(sampling, sampling_defaults(network)))
    if sampling.warmup_steps is not None:
        example = Schedule(kind="dynamic", counts=(1, 4), rho=(0.5,), warmup_steps=sampling.warmup_steps)
        refuse_unreachable_moves(replace(plan, schedule=example))
    held = ladder_config(network, request)
    config = chosen_config(held, request)
    return TuneSetup(
        request=request,
        budget=budget,
        network=network,
        ladder_file=info.path if info.config.mediators else request.output / LADDER_FILE,
        config=config,
        held=held,
        plan=plan,
        device=device,
        reference=request.reference or info.reference,
        settings={
            **image_settings(setup, plain, earlier=recorded_checkpoints(request.output)),
            **_own_settings(request, plan, config),
        },
    )


def _carried(sampling: SampleRequest, defaults: Mapping[str, Any]) -> Schedule:
    """Return full attention with the warm-up and distance for dynamic schedules."""
    return Schedule(
        kind="full",
        warmup_steps=sampling.warmup_steps or defaults.get("warmup_steps", DEFAULT_WARMUP_STEPS),
        distance=sampling.distance or defaults.get("distance", "l1"),
    )


def _own_settings(request: TuneRequest, plan: SamplingPlan, config: ModelConfig) -> dict[str, Any]:
    """Return the settings that decide measurements beyond those that decide images."""
    return {
        "schedule": {"warmup_steps": plan.schedule.warmup_steps, "distance": plan.schedule.distance},
        "batch_size": plan.batch_size,
        "num_images": request.sampling.num_images,
        "num_recorded": request.num_recorded,
        "layers": list(config.mediator_layers),
        "mediators": list(config.mediators),
        "calibrate": request.calibrate,
    }


def recorded_checkpoints(output: Path) -> object:
    """Return what the settings of an existing tuning folder say of its checkpoints; None without readable ones."""
    try:
        settings = read_json(output / SETTINGS)
    except (OSError, ValueError, RecursionError):  # reported by the store
        return None
    return settings.get("checkpoints") if isinstance(settings, dict) else None


def ladder_config(network: Network, request: TuneRequest) -> ModelConfig:
    """Return the model that holds every choice: the checkpoint's own, or a dense one with mediators added."""
    if network.config.mediators:
        return network.config
    source = NetworkSource(mediators=request.mediators, layers=request.layers)
    if source.layers_of(network.config.depth) == () or request.mediators == ():
        raise ConfigError("nothing to choose from: no layer may get mediators", hint="leave --layers out, or name some")
    return changed(network, source, add_mediators=True, default_layers="all").config


def chosen_config(held: ModelConfig, request: TuneRequest) -> ModelConfig:
    """Return the part of a ladder model to choose from.

    Raises:
        ConfigError: If the model lacks a layer or count that is named.
    """
    named = NetworkSource(layers=request.layers).layers_of(held.depth)
    layers = held.mediator_layers if named is None else named
    counts = held.mediators if request.mediators is None else request.mediators
    for flag, wanted, there in (("layers", layers, held.mediator_layers), ("mediators", counts, held.mediators)):
        if missing := [value for value in wanted if value not in there]:
            shown = ",".join(map(str, there))
            raise ConfigError(
                f"--{flag} {missing[0]}: this checkpoint has mediators for {shown} only",
                hint=f"try --{flag} {shown}, or tune the dense parent",
            )
        if not wanted:
            raise ConfigError(f"--{flag} leaves nothing to choose from", hint=f"leave --{flag} out")
    return replace(held, mediators=tuple(counts), mediator_layers=tuple(layers))


def load_ladder(setup: TuneSetup, reporter: Reporter) -> DiffusionTransformer:
    """Load the model that holds every choice onto its device; a dense checkpoint gets its mediators first."""
    dtype = DTYPES[setup.request.sampling.dtype]
    if not setup.is_dense:
        return setup.network.load(device=setup.device, dtype=dtype)
    if not setup.ladder_file.exists():
        _make_ladder(setup, reporter)
    return open_network(NetworkSource(checkpoint=setup.ladder_file)).load(device=setup.device, dtype=dtype)


def _make_ladder(setup: TuneSetup, reporter: Reporter) -> None:
    """Convert a dense checkpoint, and fit its mediators if that is asked for; the file appears when it is done."""
    config = setup.held
    raw = setup.ladder_file.with_name(f"neutral-{LADDER_FILE}") if setup.request.calibrate else setup.ladder_file
    request = ConvertRequest(network=NetworkSource(), output=raw, force=True, digest=False)
    write_network(replace(setup.network, config=config), request, reporter)
    if raw == setup.ladder_file:
        return
    neutral = open_network(NetworkSource(checkpoint=raw))
    model = neutral.load(device=setup.device, dtype=torch.float32)
    sampler = setup.plan.sampler
    loss = LossConfig(path=sampler.path, prediction=sampler.prediction)
    calibrate(model, seed=setup.plan.seed, loss=loss, reporter=reporter)
    info = neutral.opened.info
    save_checkpoint(
        setup.ladder_file,
        config,
        {name: tensor.cpu() for name, tensor in model.state_dict().items()},
        weights=info.weights,
        sampling=info.sampling,
        reference=info.reference,
        training=info.training,
    )
    raw.unlink()

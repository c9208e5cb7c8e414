"""What `tune` works with, once wishes, checkpoint and defaults have been put together and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medcli.checkpoint.load import load_model
from medcli.checkpoint.reader import describe
from medcli.checkpoint.surgery import target_config
from medcli.checkpoint.writer import save_checkpoint
from medcli.config import ModelConfig
from medcli.data.assets import BUNDLED_MODEL, asset_path
from medcli.engine.plan import ADAPTIVE_SOLVERS, SamplingPlan
from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.precision import DTYPES
from medcli.runtime.reporting import Reporter
from medcli.schedule.spec import DEFAULT_WARMUP_STEPS, Schedule
from medcli.settings.analysis import TuneRequest
from medcli.settings.network import parse_layers
from medcli.settings.sampling import SampleRequest
from medcli.training.calibration import calibrate
from medcli.training.objective import LossConfig
from medcli.tuning.space import Layers
from medcli.workflows.convert import ConvertRequest, convert
from medcli.workflows.sample.defaults import sampling_defaults
from medcli.workflows.sample.settings import picture_settings, set_up
from medcli.workflows.tune.request import Budget, budget_of

LADDER_FILE = "ladder.safetensors"
"""A dense checkpoint with mediators in every layer that may be chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneSetup:
    """A request with everything filled in."""

    request: TuneRequest
    budget: Budget
    source: Path
    """The checkpoint that was given, or the bundled one."""
    ladder_file: Path
    """The checkpoint that holds every choice: the source, or what is made of it if that is dense."""
    config: ModelConfig
    """Of the ladder file, its mediators and layers cut to those that may be chosen."""
    held: ModelConfig
    """Of the ladder file, as it is."""
    plan: SamplingPlan
    """Its schedule is full; it carries warm-up and distance of the dynamic ones."""
    device: torch.device
    reference: str | None
    """What FID would be measured against."""
    settings: Mapping[str, Any]
    """All that decides what is measured."""

    @property
    def layers(self) -> Layers:
        """Those to choose from."""
        return self.config.mediator_layers

    @property
    def counts(self) -> tuple[int, ...]:
        """Those to choose from."""
        return self.config.mediators

    @property
    def is_dense(self) -> bool:
        """Whether the source had no mediators of its own."""
        return self.ladder_file != self.source

    @property
    def numbers(self) -> range:
        """Images that finalists make."""
        return range(self.request.sampling.num_images)

    @property
    def recorded(self) -> range:
        """Images whose way is recorded."""
        return range(min(self.request.num_recorded, self.request.sampling.num_images))


def set_up_tuning(request: TuneRequest, device: torch.device) -> TuneSetup:
    """Fill in and check a request, reading no weights but for their hash.

    Raises:
        MedcliError: If the checkpoint can't be read, or wishes contradict each other or the model.
    """
    budget, sampling = budget_of(request), request.sampling
    source = Path(sampling.network.checkpoint or asset_path(BUNDLED_MODEL))
    # How images are made does not depend on what is chosen; the rest is what is looked for.
    plain = replace(
        sampling,
        network=replace(sampling.network, checkpoint=source),
        schedule="full",
        warmup_steps=None,
        distance=None,
    )
    setup = set_up(plain, device.type)
    if setup.plan.sampler.solver in ADAPTIVE_SOLVERS:
        raise ConfigError(
            f"--solver {setup.plan.sampler.solver} chooses its own steps, so there are none to compare",
            hint="use --solver heun",
        )
    info = setup.infos[0]
    if request.calibrate and info.config.mediators:
        raise ConfigError(
            "--calibrate fits new mediators, and this checkpoint has trained ones", hint="leave --calibrate out"
        )
    if request.calibrate and info.config.family not in ("dit", "sit"):
        raise ConfigError(f"--calibrate is for dit and sit, this is a {info.config.family}", hint="leave it out")
    plan = replace(setup.plan, schedule=_carried(sampling, sampling_defaults(info)))
    held = ladder_config(info.config, request)
    config = chosen_config(held, request)
    return TuneSetup(
        request=request,
        budget=budget,
        source=source,
        ladder_file=source if info.config.mediators else request.output / LADDER_FILE,
        config=config,
        held=held,
        plan=plan,
        device=device,
        reference=request.reference or info.reference,
        settings={**picture_settings(setup, plain), **_own_settings(request, plan, config)},
    )


def _carried(sampling: SampleRequest, defaults: Mapping[str, Any]) -> Schedule:
    """Full attention, with the warm-up and the distance that dynamic schedules shall have."""
    return Schedule(
        kind="full",
        warmup_steps=sampling.warmup_steps or defaults.get("warmup_steps", DEFAULT_WARMUP_STEPS),
        distance=sampling.distance or defaults.get("distance", "l1"),
    )


def _own_settings(request: TuneRequest, plan: SamplingPlan, config: ModelConfig) -> dict[str, Any]:
    """What decides measurements beyond what decides pictures."""
    return {
        "schedule": {"warmup_steps": plan.schedule.warmup_steps, "distance": plan.schedule.distance},
        "batch_size": plan.batch_size,
        "num_images": request.sampling.num_images,
        "num_recorded": request.num_recorded,
        "layers": list(config.mediator_layers),
        "mediators": list(config.mediators),
        "calibrate": request.calibrate,
    }


def ladder_config(config: ModelConfig, request: TuneRequest) -> ModelConfig:
    """The model that holds every choice: the checkpoint's own, or a dense one with mediators put in."""
    if config.mediators:
        return config
    layers = parse_layers(request.layers, config.depth) if request.layers else tuple(range(config.depth))
    if not layers or request.mediators == ():
        raise ConfigError("nothing to choose from: no layer may get mediators", hint="leave --layers out, or name some")
    return target_config(config, mediators=request.mediators, layers=layers)


def chosen_config(held: ModelConfig, request: TuneRequest) -> ModelConfig:
    """The part of a ladder model that may be chosen.

    Raises:
        ConfigError: If the model lacks a layer or count that is named.
    """
    layers = parse_layers(request.layers, held.depth) if request.layers else held.mediator_layers
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
    """The model that holds every choice, on its device; a dense checkpoint gets its mediators first."""
    sampling = setup.request.sampling
    network: Any = sampling.network
    dtype = DTYPES[sampling.dtype]
    if not setup.is_dense:
        return load_model(
            setup.source,
            family=network.family,
            num_heads=network.heads,
            weights=network.weights,
            device=setup.device,
            dtype=dtype,
        )
    if not setup.ladder_file.exists():
        _make_ladder(setup, sampling, reporter)
    return load_model(setup.ladder_file, device=setup.device, dtype=dtype)


def _make_ladder(setup: TuneSetup, sampling: SampleRequest, reporter: Reporter) -> None:
    """Convert a dense checkpoint, and fit its mediators if that is asked for; the file appears when it is done."""
    config = setup.held
    network: Any = sampling.network
    raw = setup.ladder_file.with_name(f"neutral-{LADDER_FILE}") if setup.request.calibrate else setup.ladder_file
    request = ConvertRequest(
        source=setup.source,
        output=raw,
        mediators=config.mediators,
        layers=lambda depth: config.mediator_layers,
        weights=network.weights,
        family=network.family,
        num_heads=network.heads,
        force=True,
        digest=False,
    )
    convert(request, reporter)
    if raw == setup.ladder_file:
        return
    model = load_model(raw, device=setup.device, dtype=torch.float32)
    sampler = setup.plan.sampler
    loss = LossConfig(path=sampler.path, prediction=sampler.prediction)
    calibrate(model, seed=setup.plan.seed, loss=loss, reporter=reporter)
    info = describe(raw)
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

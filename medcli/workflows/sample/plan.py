"""Resolve how a run samples.

Precedence: a flag, then the defaults in the checkpoint's header, then the references' defaults for the family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from medcli.checkpoint.class_names import class_numbers
from medcli.config import FAMILIES, ModelConfig
from medcli.engine.default_thresholds import with_default_thresholds
from medcli.engine.effects import check_effects, refuse_unreachable_moves
from medcli.engine.networks import ALWAYS, Guidance
from medcli.engine.plan import FAMILY_SAMPLERS, Labels, SamplingPlan, check_plan
from medcli.engine.plan_file import PlannedSampling, follow, read_plan
from medcli.errors import ConfigError, require_complete
from medcli.network import Network
from medcli.runtime.extras import require_extra
from medcli.schedule.spec import Schedule, check_held, choose_schedule, static
from medcli.settings.build import refuse_idle_choices, value_of
from medcli.settings.declare import settings_of
from medcli.settings.sampler import ADAPTIVE_SOLVERS, ODE_DEFAULTS, SamplerConfig, SamplerSettings
from medcli.settings.sampling import PLANNED, GuidanceSettings, SampleRequest
from medcli.workflows.sample.defaults import own_tuple, require_known_training, sampling_defaults

DEFAULT_CFG_SCALES = {"dit": 1.5, "sit": 1.5, "edt": 2.0, "mdtv2": 3.8}
"""Guidance of the papers' guided results. Source: reference-facts 1.8; edt-facts 4 and 5."""
require_complete("family", DEFAULT_CFG_SCALES, FAMILIES)
DEFAULT_CFG_POWERS = {"mdtv2": 4.0}
TRAINED_ON = ("path", "prediction")
"""Settings that belong to the weights, whatever the sampler."""
CPU_ACTIVATION_BYTES = 16 << 20
"""Widest activation of a default batch on a CPU: with more the products wait for memory (docs/sampling.md)."""
MAX_CPU_BATCH = 32
GPU_TOKENS = 65536
"""Tokens of a default batch on a GPU: enough to keep it busy, far from filling its memory."""
MAX_GPU_BATCH = 256
FLOAT32_BYTES = 4


def make_plan(
    request: SampleRequest,
    networks: Sequence[Network],
    held: tuple[int, ...],
    batch_size: int,
    *,
    reads_distances: bool = False,
) -> SamplingPlan:
    """Fill in and check the plan of a request.

    Args:
        networks: The network of each ladder index, or one for all.
        held: The ladder they form.
        batch_size: Images of a network call.
        reads_distances: See `choose_sampler`.

    Raises:
        MedcliError: If values contradict each other or a model.
    """
    config, defaults = networks[0].config, sampling_defaults(networks[0])
    require_known_training(networks[0], request)
    made = _planned(request, held, config, defaults, reads_distances)
    names = networks[0].info.class_names if networks[0].info else ()
    plan = SamplingPlan(
        sampler=made.sampler,
        rows=made.rows,
        schedule=made.schedule,
        labels=Labels(
            classes=class_numbers(range(config.num_classes) if request.classes is None else request.classes, names),
            sampling=request.label_sampling,
        ),
        guidance=made.guidance,
        seed=request.seed,
        batch_size=batch_size,
    )
    for network in networks:
        check_plan(network.config, plan)
    if request.plan is None:
        refuse_idle_choices(request, choices_of(plan))
    check_effects(plan)
    if request.warmup_steps is not None:
        refuse_unreachable_moves(plan)
    return plan


def _planned(
    request: SampleRequest,
    held: tuple[int, ...],
    config: ModelConfig,
    defaults: Mapping[str, Any],
    reads_distances: bool,
) -> PlannedSampling:
    """Choose sampler, schedule and guidance: those of the plan file, else by the flags and defaults."""
    if request.plan is None:
        schedule = _schedule(request, held, defaults)
        reads_distances = reads_distances or schedule.is_dynamic
        sampler = choose_sampler(request, config, defaults, reads_distances=reads_distances)
        if schedule.is_dynamic and schedule.counts[-1] and not (_asks_for_moves(request) or sampler.can_be_observed):
            schedule = static(schedule.counts[-1])
        is_rho_known = request.rho is not None or ("rho" in defaults and schedule.counts == held)
        if schedule.is_dynamic and not is_rho_known:
            schedule = with_default_thresholds(schedule, sampler)
        return PlannedSampling(sampler, None, schedule, choose_guidance(request, config, defaults))
    declared = settings_of(SampleRequest)
    for key in PLANNED:
        if value_of(request, declared[key]) is not None:
            flag = declared[key].flag
            raise ConfigError(
                f"{flag} and --plan contradict each other", hint=f"leave {flag} out, or make another plan"
            )
    trained_on = {name: defaults[name] for name in TRAINED_ON if name in defaults}
    made = follow(read_plan(request.plan), request.plan, config, trained_on)
    check_held(made.schedule.counts, held)
    return made


def _asks_for_moves(request: SampleRequest) -> bool:
    """Return True if a flag names the dynamic schedule or a setting of it."""
    own = (request.rho, request.warmup_steps, request.distance)
    return request.schedule == "dynamic" or any(value is not None for value in own)


def choices_of(plan: SamplingPlan) -> dict[str, Any]:
    """Return the values, by key, of the settings on which others depend."""
    return {
        "schedule": plan.schedule.kind,
        "sampler": plan.sampler.sampler,
        "solver": plan.sampler.solver,
        "last_step": plan.sampler.last_step,
        "cfg_scale": plan.guidance.scale,
    }


def choose_sampler(
    request: SamplerSettings, model: ModelConfig, defaults: Mapping[str, Any], *, reads_distances: bool = False
) -> SamplerConfig:
    """Choose the solver and its settings.

    Args:
        request: Its flags come first.
        model: Tells the family.
        defaults: From the checkpoint. They belong to its sampler; those of another stand under `for_sampler`.
        reads_distances: The distances between states decide something: then `sde` is taken instead of the checkpoint's
            `ode` unless that is named by a flag.

    Raises:
        ConfigError: If a value is unknown or out of range.
        EnvironmentProblem: If the solver's package is not installed.
    """
    own, first = defaults.get("sampler"), FAMILY_SAMPLERS[model.family][0]
    # The dynamic rule reads nothing off the ODE.
    sampler = request.sampler or (first if reads_distances and own == "ode" else own or first)
    if sampler != (own or first):
        kept = {name: defaults[name] for name in TRAINED_ON if name in defaults}
        defaults = {**kept, **defaults.get("for_sampler", {}).get(sampler, {})}
    values: dict[str, Any] = dict(ODE_DEFAULTS) if sampler == "ode" else {}
    names = [field.name for field in fields(SamplerConfig)]
    values.update({name: defaults[name] for name in names if name in defaults})
    flags = {name: getattr(request, name, None) for name in names}
    values.update({name: value for name, value in flags.items() if value is not None})
    config = SamplerConfig(**{**values, "sampler": sampler})
    if config.solver in ADAPTIVE_SOLVERS:
        require_extra("torchdiffeq")
    if sampler == "ode" and flags["last_step"] is not None and not config.ends_by_euler:
        raise ConfigError(
            f"--last-step {flags['last_step']} does nothing with --sampler ode --solver {config.solver}",
            hint="leave it out; --solver heun --last-step euler ends Heun's steps by Euler's",
        )
    return config


def choose_guidance(request: GuidanceSettings, config: ModelConfig, defaults: Mapping[str, Any]) -> Guidance:
    """The guidance: the papers' unless told otherwise, on upstream's three channels of latents, on all of pixels."""
    scale = request.cfg_scale
    if scale is None:
        scale = defaults.get("cfg_scale", DEFAULT_CFG_SCALES[config.family] if config.has_null_class else 1.0)
    if not scale >= 0 or scale == float("inf"):
        raise ConfigError(f"--cfg-scale must be a number >= 0, got {scale}", hint="try --cfg-scale 1.5; 1 is off")
    is_pixels = config.autoencoder is None or config.in_channels < 4
    channels = request.cfg_channels or defaults.get("cfg_channels", "all" if is_pixels else "3")
    interval = ALWAYS if request.cfg_interval is None else request.cfg_interval
    power = request.cfg_power
    if power is None and scale != 1.0:
        power = DEFAULT_CFG_POWERS.get(config.family)
    return Guidance(
        scale=float(scale),
        channels=None if channels == "all" else int(channels),
        interval=interval,
        power=power or None,
    )


def _schedule(request: SampleRequest, held: tuple[int, ...], defaults: Mapping[str, Any]) -> Schedule:
    kind, counts, at = request.schedule, request.mediators, request.at
    is_open = counts is None and at is None and request.rho is None
    own = defaults.get("schedule") if held != (0,) else None  # --stage full=PATH alone: no ladder to move along
    if is_open and own and kind in (None, own):
        kind, counts, at = own, own_tuple(defaults, "mediators"), own_tuple(defaults, "at")
    # Where it means nothing it is refused with the other flags that do nothing.
    rho = request.rho if kind in (None, "dynamic") else None
    # The checkpoint's thresholds are for its whole ladder.
    whole = counts in (None, held) and len(held) > 1
    if rho is None and kind in (None, "dynamic") and whole and "rho" in defaults:
        rho = tuple(defaults["rho"])
    return choose_schedule(
        kind=kind,
        counts=counts,
        rho=rho,
        held=held,
        warmup_steps=request.warmup_steps or defaults.get("warmup_steps"),
        distance=request.distance or defaults.get("distance"),
        at=at,
    )


def default_batch_size(config: ModelConfig, device_type: str) -> int:
    """Images of one network call where the user names no number.

    Args:
        device_type: `cuda` takes as many as keep a GPU busy; any other, the largest power of two whose widest
            activation, the MLP's hidden layer in float32, stays in the caches.
    """
    if device_type == "cuda":
        return max(1, min(MAX_GPU_BATCH, GPU_TOKENS // config.num_tokens))
    fitting = CPU_ACTIVATION_BYTES // (FLOAT32_BYTES * config.num_tokens * config.mlp_size)
    return min(MAX_CPU_BATCH, 1 << max(0, fitting.bit_length() - 1))

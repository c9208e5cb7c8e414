"""Count the multiply-adds of a network: a forward pass at each resolution and mediator count, and whole images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from medcli.checkpoint.surgery import TooFewTokens, target_config
from medcli.config import ModelConfig
from medcli.cost.macs import GIGA, dense, saving_percent
from medcli.cost.traced_macs import trace_costs
from medcli.data.assets import bundled_model
from medcli.engine.effects import check_effects, refuse_unreachable_moves, unreachable_moves
from medcli.engine.plan import Labels, SamplingPlan, check_plan
from medcli.errors import ConfigError
from medcli.model.absorption import absorbed_saving
from medcli.model.backbone import random_model
from medcli.model.layout import num_params
from medcli.network import Network, open_network
from medcli.presets import DEFAULT_PRESET, PUBLISHED, default_ladder, means_preset
from medcli.runtime.json_records import json_fields
from medcli.schedule.spec import FULL, Schedule, choose_schedule, static
from medcli.settings.build import refuse_idle_choices
from medcli.settings.costs import FlopsRequest
from medcli.workflows.image_cost import ImageCost, SamplingRun, image_cost, recorded_run
from medcli.workflows.sample.defaults import sampling_defaults
from medcli.workflows.sample.plan import choices_of, choose_guidance, choose_sampler

FLOPS_PER_MAC = 2
PUBLISHED_PX = 256
"""Resolution of the papers' figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlopsRow:
    """Cost of one forward pass of one image."""

    model: str
    """The preset or the file."""
    resolution_px: int
    attention: str
    """`full`, `mediators`, or `qk <ratio>`: full with narrower queries and keys."""
    num_mediators: int
    """0 without any."""
    layers: tuple[int, ...]
    """Blocks with mediators."""
    gmacs: float
    """In the papers' convention, where every token has a query and a key."""
    gmacs_done: float
    """Without the queries and keys that sampling multiplies into the mediators instead (`medcli.model.absorption`)."""
    num_params: int
    """Parameters this network has, the fixed position table included, and of a ladder this one count."""
    saving_percent: float
    """Against full attention at the same resolution; negative if more is spent."""

    @property
    def gflops(self) -> float:
        """1 MAC = 2 FLOPs."""
        return FLOPS_PER_MAC * self.gmacs

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the contract, and `gmacs_done`."""
        return {**json_fields(self), "gflops": self.gflops}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCosts:
    """Costs of one network: forward passes, full attention first at each resolution, and whole images."""

    model: str
    """The preset or the file."""
    rows: tuple[FlopsRow, ...]
    images: tuple[ImageCost, ...] = ()
    run: SamplingRun | None = None
    """Sampling run of these images."""
    depth: int
    """Blocks of the network."""
    remarks: tuple[str, ...] = ()
    """Counts left out, and differences from a paper's figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlopsReport:
    """Costs of networks side by side."""

    models: tuple[ModelCosts, ...]

    @property
    def rows(self) -> tuple[FlopsRow, ...]:
        """Forward passes of all networks."""
        return tuple(row for costs in self.models for row in costs.rows)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks of all networks, with their names."""
        return tuple(f"{costs.model}: {remark}" for costs in self.models for remark in costs.remarks)

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the contract, and `images` and `remarks`."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "images": [{"model": costs.model, **image.to_json()} for costs in self.models for image in costs.images],
            "remarks": list(self.remarks),
        }


def flops(request: FlopsRequest) -> FlopsReport:
    """Count the multiply-adds of networks from their shapes; no weights are read.

    Raises:
        ConfigError: If the preset is unknown, or values contradict each other or the network.
        CheckpointError: If the checkpoint is missing, damaged or not of these families.
        DataError: If the run's manifest is.
    """
    recorded = _recorded(request)
    if recorded is not None and len(request.models) > 1:
        raise ConfigError("--manifest is the run of one model, so name one MODEL", hint="leave the others out")
    names = request.models or (DEFAULT_PRESET if recorded is None else _file_of(recorded),)
    if not all(map(means_preset, names)):  # hints are for the checkpoints
        plain = replace(request, network=replace(request.network, family=None, heads=None))
    else:
        plain = request
    return FlopsReport(
        models=tuple(
            _costs(plain if means_preset(name) else request, name, recorded, is_alone=len(names) == 1) for name in names
        )
    )


def _costs(request: FlopsRequest, name: str, recorded: SamplingRun | None, *, is_alone: bool) -> ModelCosts:
    """Count one network. If there are others, counts that do not fit it are left out with a remark."""
    unchanged = replace(request.network, checkpoint=name, mediators=None, layers=None)
    network = open_network(unchanged, fresh=random_model)
    mediators = request.network.mediators
    if recorded is not None and recorded.schedule.kind != "full":
        mediators = recorded.schedule.counts
    layers = request.network.layers_of(network.config.depth)
    targets, remarks = list[ModelConfig](), list[str]()
    if not network.knows_stride:
        remarks.append(f"the stride of its latents is not told: counted with {network.config.latent_downsample}")
    for side in dict.fromkeys(request.resolutions_px or (network.config.resolution_px,)):
        target = _target(network.config, mediators, layers, side, remarks)
        if is_alone and mediators and not target.mediators:
            raise ConfigError(remarks[-1], hint="name blocks of the outer stages with --layers, or fewer --mediators")
        targets.append(target)
    runs = [recorded] if recorded else _planned_runs(request, network, targets[0], remarks)
    return ModelCosts(
        model=network.name,
        rows=_rows(network, targets, request.qk_ratios),
        images=tuple(image_cost(run, target) for target in targets for run in runs),
        run=runs[0] if runs else None,
        depth=network.config.depth,
        remarks=(*remarks, *_published_remarks(network, targets)),
    )


def _target(
    config: ModelConfig,
    mediators: tuple[int, ...] | None,
    layers: tuple[int, ...] | None,
    resolution_px: int,
    remarks: list[str],
) -> ModelConfig:
    """Return the requested network with those counts that fit its blocks."""

    def with_counts(counts: tuple[int, ...] | None, chosen: tuple[int, ...] | None) -> ModelConfig:
        return target_config(config, mediators=counts, layers=chosen, resolution_px=resolution_px)

    try:
        return with_counts(mediators, layers)
    except TooFewTokens as err:
        counts = mediators or config.mediators or default_ladder(config.at_resolution(resolution_px).num_tokens)
        remarks.append(err.message)
        fewer = counts[:-1]
        return _target(config, fewer, layers if fewer else None, resolution_px, remarks)


def _published_remarks(network: Network, targets: list[ModelConfig]) -> list[str]:
    """Return a remark if a paper's figures of a preset differ from the network's."""
    published = PUBLISHED.get(network.name)
    if published is None or not published.remark or PUBLISHED_PX not in {target.resolution_px for target in targets}:
        return []
    params = "" if published.million_params is None else f" and {published.million_params:g} M parameters"
    return [f"published as {published.gmacs:g} G{params}; {published.remark}"]


def _recorded(request: FlopsRequest) -> SamplingRun | None:
    if request.manifest is None:
        return None
    given = [*request.planned(), *(["mediators"] if request.network.mediators is not None else [])]
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise ConfigError(
            f"--manifest already says how the images were made, so {flag} can't", hint=f"leave {flag} out"
        )
    return recorded_run(request.manifest)


def _file_of(recorded: SamplingRun) -> str:
    """Return the checkpoint of a run, which a manifest names without its folder."""
    bundled = bundled_model(recorded.checkpoint_files[0]) if len(recorded.checkpoint_files) == 1 else None
    if bundled is not None:
        return str(bundled)
    raise ConfigError(
        f"the run used {', '.join(recorded.checkpoint_files)}, and its manifest does not say where that is",
        hint="name the model too: medcli flops MODEL --manifest PATH",
    )


def _rows(network: Network, targets: list[ModelConfig], qk_ratios: tuple[float, ...]) -> tuple[FlopsRow, ...]:
    """Return the rows of all resolutions; each kind of block is traced once."""
    base = dense(network.config)
    costs = trace_costs(base, (0, *(count for target in targets for count in target.mediators)))
    ratios = dict.fromkeys((*((network.config.qk_ratio,) if network.config.qk_ratio != 1.0 else ()), *qk_ratios))
    narrow = [(replace(base, qk_ratio=ratio), f"qk {ratio:g}") for ratio in ratios]
    narrow_costs = [trace_costs(config, (0,)) for config, _ in narrow]
    rows: list[FlopsRow] = []
    for target in targets:
        variants = [(dense(target), "full", costs)]
        variants += [(replace(target, mediators=(count,)), "mediators", costs) for count in target.mediators]
        for (config, attention), cost in zip(narrow, narrow_costs, strict=True):
            variants.append((replace(config, latent_size=target.latent_size), attention, cost))
        gmacs = [cost.macs(config, config.resolve_count(None)) / GIGA for config, _, cost in variants]
        rows += [
            _row(network.name, config, attention, own, gmacs[0])
            for (config, attention, _), own in zip(variants, gmacs, strict=True)
        ]
    return tuple(rows)


def _row(name: str, config: ModelConfig, attention: str, gmacs: float, gmacs_dense: float) -> FlopsRow:
    return FlopsRow(
        model=name,
        resolution_px=config.resolution_px,
        attention=attention,
        num_mediators=config.resolve_count(None),
        layers=config.mediator_layers,
        gmacs=gmacs,
        gmacs_done=gmacs - absorbed_saving(config) / GIGA,
        num_params=num_params(config),
        saving_percent=saving_percent(gmacs, gmacs_dense),
    )


def _planned_runs(
    request: FlopsRequest, network: Network, target: ModelConfig, remarks: list[str]
) -> list[SamplingRun]:
    """Return the sampling runs to count; none without sampling settings."""
    if not request.planned():
        return []
    settings = request.sampling
    defaults = sampling_defaults(network)
    guidance = choose_guidance(settings, network.config, defaults)
    runs = []
    for schedule in _schedules(request, network, target.mediators):
        sampler = choose_sampler(settings, network.config, defaults, reads_distances=schedule.is_dynamic)
        plan = SamplingPlan(sampler=sampler, schedule=schedule, labels=Labels(classes=(0,)), guidance=guidance)
        check_plan(network.config, plan)
        refuse_idle_choices(settings, choices_of(plan))
        check_effects(plan)
        if settings.warmup_steps is not None:
            refuse_unreachable_moves(plan)
        elif problem := unreachable_moves(plan):
            remarks.append(problem)
        runs.append(SamplingRun(schedule=schedule, sampler=sampler, guidance=guidance))
    return runs


def _timed(
    at: tuple[float, ...] | None, defaults: Mapping[str, Any], ladder: tuple[int, ...], held: tuple[int, ...]
) -> Schedule:
    """Return the timed schedule of a ladder, else that of the checkpoint, whose starts are for its own counts."""
    if at is None and ladder == held and defaults.get("schedule") == "timed":
        return choose_schedule(
            kind="timed", counts=tuple(defaults["mediators"]), rho=None, held=held, at=tuple(defaults["at"])
        )
    return choose_schedule(kind="timed", counts=None, rho=None, held=ladder, at=at)


def _schedules(request: FlopsRequest, network: Network, ladder: tuple[int, ...]) -> list[Schedule]:
    settings = request.sampling
    is_dynamic = settings.rho is not None or settings.warmup_steps is not None
    kind = settings.schedule or ("dynamic" if is_dynamic else "timed" if settings.at is not None else None)
    if kind == "static" and not ladder:
        raise ConfigError("a static schedule needs mediators", hint="add --mediators 4,16,64")
    if kind == "timed":
        return [_timed(settings.at, sampling_defaults(network), ladder, network.config.mediators)]
    if kind != "dynamic":
        return [*([FULL] if kind != "static" else []), *(map(static, ladder) if kind != "full" else ())]
    defaults = sampling_defaults(network)
    rho = settings.rho
    # The checkpoint's thresholds are for its whole ladder.
    if rho is None and ladder == network.config.mediators and "rho" in defaults:
        rho = tuple(defaults["rho"])
    warmup_steps = settings.warmup_steps or defaults.get("warmup_steps")
    return [choose_schedule(kind="dynamic", counts=None, rho=rho, held=ladder, warmup_steps=warmup_steps)]

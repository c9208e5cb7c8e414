"""Fit the mediators of a converted model to its own full attention, without data.

A fresh conversion has neutral mediators: zero bias tables, zero convolution. Here each converted layer is fitted to the
residual update of full attention on inputs that the dense parent produces when it samples from noise: first layer by
layer, then all together. Only the mediators' parameters change; with 0 mediators the model stays the parent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer
from medcli.model.layout import BIAS_TABLES, ladder_prefix
from medcli.runtime.noise import Stream, words
from medcli.runtime.reporting import Reporter, Silent
from medcli.training.calibration_inputs import NoiseStates, noise_states
from medcli.training.layer_fit import CONVOLUTION, Layer, dense_stream, fit_layer, ratio, row_parts, solve_convolution
from medcli.training.network_fit import fit_network
from medcli.training.objective import PLAIN_LOSS, LossConfig

# Dimension key: R rows (a state on its way from noise to data), N latent tokens, D model width.

CALIBRATED_FAMILIES = ("dit", "sit")
FIRST_ORDER_STEP = 2
"""First step number of batch orders in `Stream.CALIBRATION`; 0 and 1 are noise and labels of `noise_states`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationConfig:
    """Amount of sampling and fitting. Memory: (num_images + held_out) x num_times x tokens x width float32 numbers.

    Raises:
        ConfigError: If a number is below 1.
    """

    num_images: int = 16
    """Images sampled from noise whose states are fitted to."""
    held_out: int = 4
    """Held-out images, on which errors are measured."""
    num_times: int = 8
    """States of each image between noise and data."""
    steps: int = 20
    """Gradient steps on each layer alone."""
    network_steps: int = 12
    """Gradient steps on all layers together, with the memory of a training step; 0: none."""
    batch_size: int = 16
    """States in one gradient step."""

    def __post_init__(self) -> None:
        for name in ("num_images", "held_out", "num_times", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"calibration needs {name} of at least 1, got {getattr(self, name)}")
        if self.network_steps < 0:
            raise ConfigError(f"calibration needs network_steps of at least 0, got {self.network_steps}")

    @property
    def num_fitted(self) -> int:
        """Number of states fitted to."""
        return self.num_images * self.num_times

    @property
    def held_out_images(self) -> range:
        """Numbers of the held-out images."""
        return range(self.num_images, self.num_images + self.held_out)


DEFAULT = CalibrationConfig()


@dataclass(frozen=True, slots=True)
class LayerError:
    """Error of a layer at a mediator count against full attention, on held-out images.

    Errors are squared differences of the residual update, divided by the squares of full attention's update: 0 is the
    same function, 1 as bad as no update. Their square roots are ratios of lengths.
    """

    layer: int
    num_mediators: int
    before: float
    after: float


def calibrate(
    model: DiffusionTransformer,
    *,
    seed: int,
    config: CalibrationConfig = DEFAULT,
    loss: LossConfig = PLAIN_LOSS,
    parameters: Collection[str] | None = None,
    reporter: Reporter | None = None,
) -> tuple[LayerError, ...]:
    """Fit a model's mediators to its full attention, in place.

    Layer by layer, the depth-wise convolution is solved for in closed form, jointly over the counts, to compensate the
    mediators' error before the output projection; then it and the bias tables take gradient steps towards full
    attention's residual update, through the projection and the block's gate, all counts with equal weight. Finally all
    layers together take steps towards the network's output (see `fit_network`). A stage that does not lower the error
    on the held-out images is undone. The same seed gives the same numbers.

    Args:
        model: Converted, with trained projections, float32.
        seed: Random seed of noise, labels and batches (`Stream.CALIBRATION`).
        config: Amount of sampling and fitting.
        loss: Path and prediction of a SiT model, for sampling.
        parameters: State-dict names that may change; None: all of the mediators'.

    Returns:
        The error before and after, of each layer and count that was fitted.

    Raises:
        ConfigError: If the model is not float32, or of a family that can't be calibrated.
    """
    check_calibration(model.config)
    if model.pos_embed.dtype != torch.float32:
        raise ConfigError("calibration needs float32 weights", hint="load the model with dtype=torch.float32")
    jobs = _jobs(model.config, parameters)
    if not jobs:
        return ()
    fitted, held_out = (
        noise_states(model, images, seed=seed, num_times=config.num_times, loss=loss)
        for images in (range(config.num_images), config.held_out_images)
    )
    before = _layer_errors(model, held_out, jobs, config)
    batches = _batches(seed, config, max(config.steps, config.network_steps), model.pos_embed.device)
    progress = (reporter or Silent()).progress
    for number, layer in dense_stream(model, fitted.followed_by(held_out), config.batch_size):
        if number in jobs:
            _fit_layer(layer, jobs[number], config, batches[: config.steps])
            progress(list(jobs).index(number) + 1, len(jobs), "layers")
    if config.network_steps:
        _fit_all_layers(model, (fitted, held_out), jobs, config, batches[: config.network_steps], progress)
    after = _layer_errors(model, held_out, jobs, config)
    return tuple(LayerError(*place, before[place], after[place]) for place in before)


def check_calibration(config: ModelConfig) -> None:
    """Refuse families whose blocks are not a plain sequence: layers are fitted along one residual stream.

    Raises:
        ConfigError: Naming the family.
    """
    if config.family not in CALIBRATED_FAMILIES:
        raise ConfigError(
            f"calibration supports {' and '.join(CALIBRATED_FAMILIES)} models, not {config.family}",
            hint="leave --calibrate out, or distill from the dense parent with --distill",
        )


@torch.no_grad()
def output_errors(
    model: DiffusionTransformer, *, seed: int, config: CalibrationConfig = DEFAULT, loss: LossConfig = PLAIN_LOSS
) -> dict[int, float]:
    """Relative squared error of the network's output against its own full attention, for each count of the ladder.

    Measured on the held-out images of `calibrate` under the same arguments.
    """
    states = noise_states(model, config.held_out_images, seed=seed, num_times=config.num_times, loss=loss)
    return _output_errors(model, states, model.config.mediators, config)


@dataclass(frozen=True, slots=True)
class _Job:
    """Parameters and counts to fit in one layer."""

    names: tuple[str, ...]
    """Mediator parameters, by their names within the attention."""
    counts: tuple[int, ...]
    """Mediator counts that use them."""


def _jobs(config: ModelConfig, parameters: Collection[str] | None) -> dict[int, _Job]:
    """Layers to fit, by number."""
    tables = {
        count: [ladder_prefix(config.mediators, count) + table for table in BIAS_TABLES] for count in config.mediators
    }
    jobs: dict[int, _Job] = {}
    for layer in config.mediator_layers:

        def kept(names: Iterable[str], place: str = f"blocks.{layer}.attn.") -> list[str]:
            return [name for name in names if parameters is None or place + name in parameters]

        shared = kept(CONVOLUTION)
        own = {count: kept(names) for count, names in tables.items()}
        counts = tuple(count for count, names in own.items() if names or shared)
        if counts:
            jobs[layer] = _Job((*shared, *(name for names in own.values() for name in names)), counts)
    return jobs


def _batches(seed: int, config: CalibrationConfig, num_steps: int, device: torch.device) -> list[Tensor]:
    """Rows of each gradient step, drawn without replacement within a step."""
    row_R = torch.arange(config.num_fitted)
    batches = []
    for step in range(num_steps):
        keys = words(seed, row_R, torch.full_like(row_R, FIRST_ORDER_STEP + step), 1, Stream.CALIBRATION)[:, 0]
        batches.append(keys.argsort(stable=True)[: config.batch_size].to(device))
    return batches


def _fit_layer(layer: Layer, job: _Job, config: CalibrationConfig, batches: list[Tensor]) -> None:
    """Fit one layer, see `calibrate`."""
    own = {name: value.detach() for name, value in layer.attention.named_parameters() if name in job.names}
    fitted = list(row_parts(config.num_fitted, config.batch_size))
    held_out = list(row_parts(len(layer.x_RND), config.batch_size, config.num_fitted))
    mean_energy = sum(float(layer.energy(layer.read(rows))) for rows in fitted) / config.num_fitted
    stages = [(_total(layer.errors(job.counts, held_out)), _copied(own))]
    if set(CONVOLUTION) <= set(job.names):
        solve_convolution(layer, job.counts, fitted)
        stages.append((_total(layer.errors(job.counts, held_out)), _copied(own)))
    if mean_energy > 0:
        _overwrite(own, fit_layer(layer, own, job.counts, batches, mean_energy))
        stages.append((_total(layer.errors(job.counts, held_out)), _copied(own)))
    _overwrite(own, min(stages, key=lambda stage: stage[0])[1])


def _fit_all_layers(
    model: DiffusionTransformer,
    states: tuple[NoiseStates, NoiseStates],
    jobs: Mapping[int, _Job],
    config: CalibrationConfig,
    batches: list[Tensor],
    progress: Callable[[int, int, str], None],
) -> None:
    """Fit all layers together, see `calibrate`."""
    fitted, held_out = states
    names = {f"blocks.{number}.attn.{name}" for number, job in jobs.items() for name in job.names}
    counts = tuple(sorted({count for job in jobs.values() for count in job.counts}))
    own = {name: value.detach() for name, value in model.named_parameters() if name in names}
    kept, error = _copied(own), _total(_output_errors(model, held_out, counts, config))
    _overwrite(own, fit_network(model, fitted, own, counts, batches, progress))
    if not _total(_output_errors(model, held_out, counts, config)) < error:
        _overwrite(own, kept)


@torch.no_grad()
def _layer_errors(
    model: DiffusionTransformer, states: NoiseStates, jobs: Mapping[int, _Job], config: CalibrationConfig
) -> dict[tuple[int, int], float]:
    """Relative squared error of each fitted layer at each of its counts."""
    parts = list(row_parts(len(states), config.batch_size))
    errors: dict[tuple[int, int], float] = {}
    for number, layer in dense_stream(model, states, config.batch_size):
        if number in jobs:
            errors |= {(number, count): error for count, error in layer.errors(jobs[number].counts, parts).items()}
    return errors


@torch.no_grad()
def _output_errors(
    model: DiffusionTransformer, states: NoiseStates, counts: tuple[int, ...], config: CalibrationConfig
) -> dict[int, float]:
    missed, whole = dict.fromkeys(counts, 0.0), 0.0
    for rows in row_parts(len(states), config.batch_size):
        part = states.rows(rows)
        inputs = (part.x_RCYX, part.t_R, part.label_R)
        full = model(*inputs, 0)
        whole += float(full.square().sum())
        for count in missed:
            missed[count] += float((model(*inputs, count) - full).square().sum())
    return {count: ratio(miss, whole) for count, miss in missed.items()}


def _total(errors: Mapping[int, float]) -> float:
    """Sum of the counts' errors, by which stages are compared."""
    return sum(errors.values())


def _copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in values.items()}


@torch.no_grad()
def _overwrite(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)

"""Measure the memory and time of a training step by running some of its micro-batches; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from medcli.data.training_set import TrainingSet
from medcli.errors import EnvironmentProblem
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.memory import MIB, available_bytes, peak_memory_mib
from medcli.runtime.timing import Clock
from medcli.training.batches import Batches, TrainBatch, counts_of_step
from medcli.training.config import TrainConfig
from medcli.training.distributed import Distributed
from medcli.training.optimizers import NUM_MOMENTS
from medcli.training.train import has_idle_parameters, numerics
from medcli.training.trainer import Trainer

FLOAT_BYTES = 4
SHARE_STEPS = 60
"""Number of steps, and of rows of each, over which the shares of the counts are averaged."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMemory:
    """Memory of a step in one process, in bytes."""

    weights: int
    gradients: int
    moments: int
    """Moments of the optimizer."""
    averages: int
    """Moving average of the weights."""
    teacher: int
    """Weights of the teacher."""
    activations: int
    """Tensors kept for the backward pass of one micro-batch, at the mediator count that keeps most."""
    update: int
    """Temporaries of the optimizer's update, where it is not fused."""
    waste: int
    """Measured peak beyond the sum of the parts: held by the allocator, or temporary."""
    is_accumulated: bool
    """True: gradients of earlier micro-batches are held during a forward pass."""

    @property
    def total(self) -> int:
        """Peak of a step."""
        return self.counted + self.waste

    @property
    def counted(self) -> int:
        """Peak according to the parts. With a single micro-batch gradients replace activations as these are freed."""
        passes = self.activations + self.gradients * self.is_accumulated
        return self.weights + self.teacher + self.moments + self.averages + max(self.gradients + self.update, passes)

    def to_json(self) -> dict[str, int]:
        """Return the bytes of each part, and the total."""
        names = ("weights", "gradients", "moments", "averages", "activations", "waste", "teacher", "update", "total")
        return {f"{name}_bytes": getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Seconds of a step in one process."""

    passes: float
    """Forward and backward passes of all micro-batches, averaged over the counts as often as they are trained."""
    update: float
    """Gradient clipping, optimizer and moving average."""
    num_timed_images: int
    """Number of images of the measured micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTrial:
    """Measured micro-batch, scaled to a step."""

    memory: StepMemory
    time: StepTime


def count_shares(rule: str, counts: tuple[int, ...]) -> dict[int, float]:
    """Return the share of a run's images that each mediator count gets, see `counts_of_step`."""
    rows = [count for step in range(SHARE_STEPS) for count in counts_of_step(rule, counts, 0, step, SHARE_STEPS)]
    return {count: rows.count(count) / len(rows) for count in counts}


def lasting_memory(
    model: DiffusionTransformer, teacher: DiffusionTransformer | None, config: TrainConfig
) -> StepMemory:
    """Count weights, gradients, moments and averages from the parameters; no activations."""
    trained = FLOAT_BYTES * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return StepMemory(
        weights=_num_bytes(model),
        gradients=trained,
        moments=NUM_MOMENTS[config.optimizer] * trained,
        averages=trained,
        teacher=_num_bytes(teacher) if teacher else 0,
        activations=0,
        update=0,
        waste=0,
        is_accumulated=False,
    )


def try_step(
    model: DiffusionTransformer,
    teacher: DiffusionTransformer | None,
    data: TrainingSet,
    config: TrainConfig,
    *,
    device: torch.device,
    num_images: int,
    micro_batch_size: int,
    num_tried: int,
    clock: Clock,
) -> StepTrial:
    """Train on one micro-batch at each mediator count and scale the measurements to a step.

    The first optimizer step is a warm-up; a second one is measured. Compilation is left out.

    Args:
        model: The network, which is changed; what requires a gradient is trained.
        teacher: Teacher of a distillation.
        num_images: Number of images of a step in this process.
        micro_batch_size: Number of images of a forward pass.
        num_tried: Number of images of the measured micro-batch, at most `micro_batch_size`; results are scaled.
        clock: Clock of the timing.

    Raises:
        EnvironmentProblem: If weights, gradients and optimizer do not fit the memory that is available.
    """
    lasting = lasting_memory(model, teacher, config)
    _require_memory(lasting, device)
    is_accumulated = config.masking is not None or micro_batch_size < num_images
    config = replace(config, compile=False, micro_batch_size=None)
    measured = _measure(
        model, teacher, data, config, device=device, num_tried=num_tried, clock=clock, is_accumulated=is_accumulated
    )
    lasting = replace(lasting, update=0 if device.type == "cuda" else lasting.gradients, is_accumulated=is_accumulated)
    shares = count_shares(config.ladder_rule, config.counts)
    mean = sum(shares[count] * seconds for count, seconds in measured.passes.items())
    seconds = StepTime(
        passes=mean / measured.num_images * num_images,
        update=fmean(measured.updates),
        num_timed_images=measured.num_images,
    )
    return StepTrial(memory=_scaled_memory(lasting, measured, micro_batch_size), time=seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    """Measurements of a micro-batch."""

    passes: dict[int, float]
    """Seconds of the forward and backward pass at each mediator count."""
    kept: tuple[int, ...]
    """Bytes kept for the backward pass at each count."""
    updates: tuple[float, ...]
    """Seconds of each optimizer update."""
    peak: float | None
    """Peak memory beyond the weights, MiB; None: not available."""
    num_images: int


def _measure(
    model: DiffusionTransformer,
    teacher: DiffusionTransformer | None,
    data: TrainingSet,
    config: TrainConfig,
    *,
    device: torch.device,
    num_tried: int,
    clock: Clock,
    is_accumulated: bool,
) -> _Measured:
    """Train on a micro-batch at each count: once to create the moments, then for the measurements."""
    passes: dict[int, float] = {}
    kept: list[int] = []
    updates: list[float] = []

    def work() -> None:
        trainer = Trainer(model, teacher, config, distributed)
        trainer.gradients(batches[config.counts[0]])
        trainer.update()  # creates the moments
        for count, batch in batches.items():
            with _saved_bytes(model) as saved:
                trainer.gradients(batch)
            kept.append(sum(saved.values()))
            if not is_accumulated:
                trainer.zero_gradients()
            passes[count] = clock.time(lambda batch=batch: trainer.gradients(batch)).wall_seconds  # type: ignore[misc]
            updates.append(clock.time(trainer.update).wall_seconds)

    distributed = Distributed(device, has_idle_parameters=has_idle_parameters(model.config, config))
    with numerics(model, teacher, config, distributed):
        rows = distributed.rows(config.global_batch_size)[:num_tried]
        batch = Batches.of(data, config, model.config, rows=rows, device=device).draw(0)
        for network in (model, teacher):
            if network is not None:
                network.to(device)  # before the measurement, which excludes weights
        batches = {count: _at_count(batch, count) for count in config.counts}
        peak = peak_memory_mib(work, device)
    return _Measured(passes=passes, kept=tuple(kept), updates=tuple(updates), peak=peak, num_images=len(rows))


def _scaled_memory(lasting: StepMemory, measured: _Measured, micro_batch_size: int) -> StepMemory:
    """Scale measured memory to a micro-batch; the peak beyond the counted parts is waste."""
    scale = micro_batch_size / measured.num_images
    memory = replace(lasting, activations=round(max(measured.kept) * scale))
    if measured.peak is None:
        return memory
    before = memory.weights + memory.teacher
    fixed = before + memory.moments + memory.averages + memory.gradients * memory.is_accumulated
    peak = fixed + max(0.0, measured.peak * MIB + before - fixed) * scale
    return replace(memory, waste=max(0, round(peak) - memory.counted))


def _require_memory(lasting: StepMemory, device: torch.device) -> None:
    available = available_bytes(device)
    wanted = lasting.counted
    if available is not None and wanted - lasting.weights - lasting.teacher > available:
        raise EnvironmentProblem(
            f"a step needs at least {wanted / GIB:.1f} GiB, {available / GIB:.1f} GiB are available on {device}",
            hint="--train attention trains fewer parameters",
        )


def _num_bytes(model: DiffusionTransformer) -> int:
    return FLOAT_BYTES * sum(parameter.numel() for parameter in model.parameters())


def _at_count(batch: TrainBatch, count: int) -> TrainBatch:
    """Return the batch with all rows at one mediator count."""
    masked = None if batch.masked is None else _at_count(batch.masked, count)
    return TrainBatch(*batch[:4], (count,) * len(batch), batch.masks, masked, batch.weight_B)


@contextmanager
def _saved_bytes(model: DiffusionTransformer) -> Iterator[dict[int, int]]:
    """Collect the sizes of the storages that forward passes keep for the backward pass, parameters excluded."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept

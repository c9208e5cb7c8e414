"""Measure a training step, forward to moving average, against a plain loop as the papers' scripts write it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from medcli.cost.macs import closed_form_macs
from medcli.errors import ConfigError
from medcli.runtime.memory import MIB, peak_memory_mib
from medcli.runtime.precision import DTYPES, tf32
from medcli.runtime.reporting import Reporter
from medcli.runtime.timing import Clock, Reading, Spread, clock_for, take_turns, thread_limit
from medcli.training.block_autocast import called_with
from medcli.training.config import TrainConfig
from medcli.training.distributed import Distributed
from medcli.training.trainer import Trainer
from medcli.workflows.bench.run import machine_name
from medcli.workflows.bench.settings import BenchSettings
from medcli.workflows.bench.subject import Subject
from medcli.workflows.bench_train.plain import PlainTraining
from medcli.workflows.bench_train.report import BenchTrainReport, BenchTrainRow, TrainAgreement
from medcli.workflows.bench_train.work import training_work

OURS, PLAIN = "medcli", "plain"
UNTIMED = 2
"""Steps of each side before it is timed: the first makes AdamW's moments and may compile, the second shows memory."""
TRAINING_PASSES = 3
"""Forward passes that the products of a forward and a backward pass come to."""
GIGA = 1e9
CPU_BATCH = 4
GPU_BATCH = 32
PLAIN_FAMILIES = ("sit", "dit")
"""Families whose papers' scripts are known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchTrainRequest:
    """What to measure, and how."""

    settings: BenchSettings
    vae: str | None = None
    """An autoencoder: the plain loop then encodes its images in every step, as the scripts do; ours has latents."""


def bench_train(request: BenchTrainRequest, reporter: Reporter, *, clock: Clock | None = None) -> BenchTrainReport:
    """Measure a training step at each mediator count and at full attention; both sides take turns.

    Args:
        request: What to measure.
        reporter: Is told about steps done.
        clock: Replaces the device's clock.

    Raises:
        ConfigError: If the preset is unknown, or values contradict each other or the model.
        CheckpointError: If the checkpoint is missing, damaged or not of these families.
        EnvironmentProblem: If the device, the autoencoder or a compiler is not there.
    """
    settings = request.settings
    subject, device = settings.prepare(reporter)
    if subject.config.family not in PLAIN_FAMILIES:
        raise ConfigError(
            f"the papers' training loop is for {' and '.join(PLAIN_FAMILIES)} models, not {subject.config.family}",
            hint="name a DiT or SiT model",
        )
    batch_size = settings.batch_size or (CPU_BATCH if device.type == "cpu" else GPU_BATCH)
    with thread_limit(settings.num_threads) as threads:
        contest = _Contest(request, subject, batch_size, device, clock or clock_for(device, threads), reporter)
        return contest.report()


class _Contest:
    """Both sides at each count, one count after the other, so that no more than two networks are held at once."""

    def __init__(
        self,
        request: BenchTrainRequest,
        subject: Subject,
        batch_size: int,
        device: torch.device,
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        self._request, self._subject, self._batch_size = request, subject, batch_size
        self._device, self._clock, self._reporter = device, clock, reporter
        self._counts = (0, *subject.config.mediators)
        self._num_steps = UNTIMED + request.settings.repeats
        self._done = itertools.count(1)
        self._work = training_work(
            subject.config, batch_size, self._num_steps, device, vae=request.vae, reporter=reporter
        )
        self._distributed = Distributed(has_idle_parameters=True)

    def report(self) -> BenchTrainReport:
        """Measure."""
        settings, config = self._request.settings, self._subject.config
        measured = [self._measure(count) for count in self._counts]
        num_params = sum(parameter.numel() for parameter in self._subject.load().parameters())
        return BenchTrainReport(
            model=self._subject.name,
            resolution_px=config.resolution_px,
            num_tokens=config.num_tokens,
            num_params=num_params,
            layers=config.mediator_layers,
            depth=config.depth,
            batch_size=self._batch_size,
            repeats=settings.repeats,
            clock=self._clock.name,
            device=str(self._device),
            machine=machine_name(self._device),
            threads=torch.get_num_threads(),
            dtype=settings.dtype,
            compiled=settings.compiled,
            vae=self._request.vae,
            lasting_mib=4 * 4 * num_params / MIB,
            rows=tuple(row for rows, _ in measured for row in rows),
            agreements=tuple(agreement for _, agreement in measured),
        )

    def _measure(self, count: int) -> tuple[list[BenchTrainRow], TrainAgreement]:
        """Both sides at one count."""
        with ExitStack() as stack:
            stack.enter_context(tf32(self._device))
            sides = [self._ours(count, stack), self._plain(count)]
            peaks = [self._warm(side) for side in sides]
            readings = take_turns([side.run for side in sides], self._request.settings.repeats, self._clock, self._tell)
        plain_seconds = Spread.of([reading.seconds for reading in readings[1]]).median
        rows = [self._row(*side, count, plain_seconds) for side in zip((OURS, PLAIN), readings, peaks, strict=True)]
        differences = [_relative(*pair) for pair in zip(*(side.losses for side in sides), strict=True)]
        return rows, TrainAgreement(count, len(differences), max(differences))

    def _ours(self, count: int, stack: ExitStack) -> _Side:
        """Our step, with the making of its batch, which a run leaves to a thread."""
        model = self._subject.load().requires_grad_(True)
        model.pos_embed.requires_grad_(False)
        dtype = DTYPES[self._request.settings.dtype]
        stack.enter_context(called_with(model.blocks, device=self._device, dtype=dtype))
        # The norm of the gradient is taken and compared with a limit, as in a run, but both sides do the same steps.
        config = replace(self._config(count), compile=self._request.settings.compiled, grad_clip=math.inf)
        trainer = Trainer(model, None, config, self._distributed)
        batches = self._work.batches(config)
        return _Side(lambda step: trainer.learn(batches.draw(step)).loss)

    def _plain(self, count: int) -> _Side:
        config = self._config(count)
        training = PlainTraining(
            self._subject.load().to(self._device).state_dict(),
            self._subject.config,
            count,
            lr=config.lr,
            ema=config.ema,
            encoder=self._work.encoder,
        )
        batches = [self._work.plain_batch(config, step) for step in range(self._num_steps)]
        return _Side(lambda step: training.step(batches[step]), lambda: training.gradient_bytes / MIB)

    def _config(self, count: int) -> TrainConfig:
        return TrainConfig(steps=self._num_steps, global_batch_size=self._batch_size, counts=(count,))

    def _warm(self, side: _Side) -> float | None:
        """Run a side untimed; what the last of these steps held beyond what lasts."""
        for _ in range(UNTIMED - 1):
            side.run()
            self._tell()
        held = side.held_mib()
        peak = peak_memory_mib(side.run, self._device)
        self._tell()
        return None if peak is None else peak + held

    def _tell(self) -> None:
        self._reporter.progress(next(self._done), 2 * len(self._counts) * self._num_steps, "steps")

    def _row(
        self, variant: str, readings: Sequence[Reading], peak: float | None, count: int, plain_seconds: float
    ) -> BenchTrainRow:
        request, is_ours = self._request, variant == OURS
        seconds = Spread.of([reading.seconds for reading in readings])
        a_pass = closed_form_macs(self._subject.config, num_mediators=count) / GIGA
        return BenchTrainRow(
            variant=variant,
            num_mediators=count,
            dtype=request.settings.dtype if is_ours and request.settings.dtype != "fp32" else self._full_dtype,
            compiled=is_ours and request.settings.compiled,
            encodes=not is_ours and request.vae is not None,
            num_images=self._batch_size,
            gmacs=TRAINING_PASSES * self._batch_size * a_pass,
            seconds=seconds,
            wall_seconds=Spread.of([reading.wall_seconds for reading in readings]).median,
            peak_memory_mib=peak,
            ratio_to_plain=plain_seconds / seconds.median,
        )

    @property
    def _full_dtype(self) -> str:
        """What float32 products are on this device."""
        return "tf32" if self._device.type == "cuda" else "fp32"


class _Side:
    """A network that does its steps one by one and remembers their losses.

    Args:
        step: Does the step of a number, from 0, and gives its loss.
        held_mib: What is held between steps that does not last.
    """

    def __init__(
        self, step: Callable[[int], float | torch.Tensor], held_mib: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._step, self.held_mib = step, held_mib
        self._losses: list[float | torch.Tensor] = []

    def run(self) -> None:
        """Do the next step."""
        self._losses.append(self._step(len(self._losses)))

    @property
    def losses(self) -> list[float]:
        """Of all steps done."""
        return [float(loss) for loss in self._losses]


def _relative(one: float, other: float) -> float:
    difference = abs(one - other) / abs(other) if other else abs(one - other)
    return difference if math.isfinite(difference) else math.inf

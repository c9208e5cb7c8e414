"""Train a network: entry point of the training package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.data.training_set import LenientSet, TrainingSet
from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer
from medcli.model.block import Block
from medcli.runtime.compilation import require_compiler
from medcli.runtime.files import require_space
from medcli.runtime.locks import FolderLocks
from medcli.runtime.precision import DTYPES, tf32, warn_if_slow
from medcli.runtime.reporting import Reporter, Silent
from medcli.training.batches import CPU, Batches
from medcli.training.block_autocast import called_with
from medcli.training.checkpoints import CheckpointFolder
from medcli.training.config import TrainConfig
from medcli.training.distributed import Distributed
from medcli.training.history import BadStep
from medcli.training.interrupt import Interrupt
from medcli.training.loop import Callbacks, OnLog, OnSave, OnStart, TrainingLoop
from medcli.training.metrics_log import MetricsLog
from medcli.training.optimizers import NUM_MOMENTS
from medcli.training.run_identity import identity_of
from medcli.training.trainer import Trainer

METRICS_FILE = "metrics.jsonl"
LOCK_FILE = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """Result of a run."""

    ema: dict[str, Tensor]
    """Moving average of every parameter by name, float32 on the CPU."""
    steps: int
    """Steps done, those before a resume included."""
    loss: float | None
    """Mean loss of the steps of the last log line."""
    skipped: tuple[BadStep, ...]
    """Steps skipped because of spikes or values that are not finite, those before a resume included."""
    unreadable: frozenset[int]
    """Numbers of images that could not be read, those before a resume included."""
    resumed_from: dict[str, Any] | None
    """`History.resumed_from`."""
    rollbacks: int
    """Times this loop rolled back to a checkpoint."""
    seconds: float
    """Wall time of this loop, checkpoints and callbacks included."""
    images_per_sec: float | None
    """Training throughput of this loop; None if no step was left."""


def train(
    model: DiffusionTransformer,
    data: TrainingSet,
    config: TrainConfig,
    output_dir: Path,
    reporter: Reporter,
    *,
    device: torch.device = CPU,
    teacher: DiffusionTransformer | None = None,
    identity: Mapping[str, Any] | None = None,
    on_start: OnStart | None = None,
    on_save: OnSave | None = None,
    on_log: OnLog | None = None,
) -> TrainResult:
    """Train a model in place, alone or as one of the processes of a launch.

    The same call again continues what `output_dir` holds, bit for bit on a CPU.

    Args:
        model: Initialised or pretrained network, float32. Parameters that require no gradient stay as they are.
        output_dir: Folder of checkpoints, `metrics.jsonl` and a lock during the run. Only rank 0 uses it.
        reporter: Receives progress, skipped steps and damaged checkpoints, in rank 0.
        device: This process's device.
        teacher: The dense parent, if `config.loss.distill` is above 0.
        identity: More settings that a resumed run must not change, JSON values by a name for messages.
        on_start, on_save, on_log: See `Callbacks`.

    Raises:
        ConfigError: If the run does not fit the machine, another trains in `output_dir`, or too many steps are bad.
        CheckpointError: If `output_dir` holds a run with other settings, or states that can't be read.
        DataError: If too many images can't be read, or are not finite.
        EnvironmentProblem: If there is no room for the states.
        KeyboardInterrupt: At Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, once the run is saved.
    """
    started = monotonic()
    data = data if isinstance(data, LenientSet) else LenientSet(data)
    config.check_family(model.config.family)
    distributed = Distributed(device, has_idle_parameters=has_idle_parameters(model.config, config))
    _check_dtype(config, distributed, reporter)
    rows, run = distributed.rows(config.global_batch_size), identity_of(model, data, config, identity or {})
    with ExitStack() as stack:
        distributed.broadcast_object(lambda: _lock_folder(stack, output_dir, model, config))
        checkpoints = CheckpointFolder(output_dir, run, config.keep_last, reporter)
        distributed.broadcast_object(checkpoints.clean)
        stack.enter_context(numerics(model, teacher, config, distributed))
        trainer = Trainer(model, teacher, config, distributed)
        first_reporter = reporter if distributed.is_first else Silent()
        answer = partial(_answer_interrupt, first_reporter, output_dir, config, distributed)
        loop = TrainingLoop(
            trainer,
            Batches.of(data, config, model.config, rows=rows, device=device),
            config,
            data=data,
            checkpoints=checkpoints,
            metrics=MetricsLog(output_dir / METRICS_FILE, config),
            interrupt=stack.enter_context(Interrupt(distributed, answer)),
            callbacks=Callbacks(reporter=reporter, on_start=on_start, on_save=on_save, on_log=on_log),
        )
        loop.run()
        return _result_of(loop, trainer, monotonic() - started)


def has_idle_parameters(model: ModelConfig, config: TrainConfig) -> bool:
    """Return whether some passes leave trained parameters unused."""
    if model.family == "mdtv2":
        return True  # the mask token
    is_single = len(model.mediators) == 1 and config.counts == model.mediators
    return bool(model.mediator_layers) and not is_single


def check_device(dtype: str, device: torch.device) -> None:
    """Refuse data types that a device can't train in.

    Raises:
        ConfigError: If there is no such device for it.
    """
    if dtype == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"--dtype fp16 needs a CUDA device, this run is on {device.type}", hint="use --dtype fp32, or bf16"
        )


def _answer_interrupt(reporter: Reporter, folder: Path, config: TrainConfig, distributed: Distributed) -> None:
    """Report what the first Ctrl-C saves and how to resume, while the step is still computed."""
    again = "; Ctrl-C again stops at once and keeps the last checkpoint" if distributed.is_alone else ""
    reporter.note(
        f"stopping after this step: it is saved in {folder}, and {config.resuming_command} resumes there{again}"
    )


def _check_dtype(config: TrainConfig, distributed: Distributed, reporter: Reporter) -> None:
    """Refuse data types that can't be trained here; warn of slow ones."""
    check_device(config.dtype, distributed.device)
    if config.dtype == "fp16" and distributed.is_sharded:
        raise ConfigError("--dtype fp16 is not supported with FSDP", hint="use --dtype bf16")
    if distributed.is_first:
        warn_if_slow(DTYPES[config.dtype], distributed.device, reporter)


def _lock_folder(stack: ExitStack, folder: Path, model: DiffusionTransformer, config: TrainConfig) -> None:
    """Lock the folder and check that its disk has room for the checkpoints.

    Raises:
        ConfigError: If another run uses it.
        EnvironmentProblem: If it can't be written to, or is too full.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    weights = sum(parameter.numel() for parameter in model.parameters())
    # Weights, and of each trained parameter its average and the optimizer's moments.
    num_bytes = torch.float32.itemsize * (weights + (1 + NUM_MOMENTS[config.optimizer]) * trained)
    require_space(folder, (config.keep_last + 1) * num_bytes, f"{config.keep_last + 1} checkpoints")
    locks = FolderLocks(folder / LOCK_FILE)
    stack.callback(locks.close)
    if not locks.is_alone:
        raise ConfigError(f"another run is training in {folder}", hint="wait for it, or choose another --output")
    locks.share()  # or the next process would wait instead of failing


@contextmanager
def numerics(
    model: DiffusionTransformer, teacher: DiffusionTransformer | None, config: TrainConfig, distributed: Distributed
) -> Iterator[None]:
    """Use the run's number formats inside the `with`: those of the blocks, and TF32.

    Blocks are compiled and their activations checkpointed if the run says so.

    Raises:
        EnvironmentProblem: If they are to be compiled and no compiler is installed.
    """
    device, dtype, is_compiled = distributed.device, DTYPES[config.dtype], config.compile
    if is_compiled:
        require_compiler(device)
    wrapped = partial(called_with, device=device, dtype=dtype, is_compiled=is_compiled)
    with (
        distributed.quiet_ddp_warnings(),
        tf32(device),
        wrapped(_blocks(model), is_checkpointed=config.checkpoint_activations),
        wrapped(_blocks(teacher) if teacher else ()),
    ):
        yield


def _blocks(model: DiffusionTransformer) -> list[Block]:
    """All blocks, including the one only masked passes use."""
    return [module for module in model.modules() if isinstance(module, Block)]


def _result_of(loop: TrainingLoop, trainer: Trainer, seconds: float) -> TrainResult:
    history = loop.history
    images = loop.num_trained * trainer.config.global_batch_size
    return TrainResult(
        ema=trainer.averaged_weights(),
        steps=history.done,
        loss=loop.last_loss(),
        skipped=history.bad_steps,
        unreadable=history.unreadable,
        resumed_from=history.resumed_from,
        rollbacks=loop.rollbacks,
        seconds=seconds,
        images_per_sec=images / seconds if images else None,
    )

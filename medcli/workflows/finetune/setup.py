"""What a fine-tuning run is, once the wishes, the checkpoint and the data have been put together and checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from medcli.checkpoint.fingerprint import PREFIX as FINGERPRINT_PREFIX
from medcli.config import ModelConfig
from medcli.data.datasets import open_training_set
from medcli.data.training_set import TrainingSet
from medcli.errors import CheckpointError, ConfigError
from medcli.model.layout import blocks
from medcli.network import Network
from medcli.runtime.device import own_device
from medcli.runtime.files import file_sha256
from medcli.runtime.json_records import read_json
from medcli.runtime.processes import Processes, launch_remark, this_process
from medcli.runtime.reporting import Reporter, Silent
from medcli.settings.training import PIXELS, FinetuneRequest, TrainingSettings
from medcli.training.calibration import check_calibration
from medcli.training.config import AUTO, NEVER, TrainConfig
from medcli.training.distributed import equal_share
from medcli.training.masking import Masking, mask_sites
from medcli.training.objective import LossConfig
from medcli.training.selection import Selection, select
from medcli.workflows.finetune.initial_model import (
    initial_network,
    remark_on_changes,
    with_classes,
)
from medcli.workflows.finetune.loss import loss_of, remark_on_output, teacher_of
from medcli.workflows.sample.defaults import sampling_defaults

RUNS = Path("runs")
CHECKPOINT = "checkpoint.safetensors"
"""Name of the finished model in the run's folder."""
STARTING_WEIGHTS = "set of starting weights"
"""Key of the record that messages name, too."""
STATES = "state-*.safetensors"
"""Names of its training states."""
DEFAULT_EVALUATED = 512
"""Images that the loss is measured on for each count, before and after a run with a control."""
CPU_TOKEN_BYTES = 2**21
"""Default limit, on a CPU, of the size of a micro-batch's tokens between two blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSetup:
    """A request with everything filled in and checked; no weights are loaded."""

    request: FinetuneRequest
    start: Network
    data: TrainingSet
    training: TrainConfig
    selection: Selection
    teacher: Network | None
    output: Path
    device: torch.device
    processes: Processes
    identity: dict[str, Any] = field(default_factory=dict)
    """What a resumed run must share with its beginning, beside what `train` compares by itself."""

    @property
    def config(self) -> ModelConfig:
        """The network."""
        return self.start.config

    @property
    def autoencoder(self) -> str | None:
        """What decodes its latents, where it is not the model's own."""
        return None if self.request.vae == PIXELS else self.request.vae

    @property
    def is_begun(self) -> bool:
        """Whether the run's folder holds saved states."""
        return any(self.output.glob(STATES))

    @property
    def sampling(self) -> dict[str, Any]:
        """Defaults for sampling from what is trained: the source's, with the path and prediction of the training."""
        named = sampling_defaults(self.start)
        loss, plain = self.training.loss, LossConfig()
        for name in ("path", "prediction"):
            if name in named or getattr(loss, name) != getattr(plain, name):
                named[name] = getattr(loss, name)
        return named

    @property
    def share(self) -> int:
        """Number of images of a step in one process."""
        return math.ceil(self.training.global_batch_size / self.processes.count)

    @property
    def micro_batch_size(self) -> int:
        """Number of images of a forward pass."""
        return min(self.share, self.training.micro_batch_size or self.share)

    @property
    def num_evaluated(self) -> int:
        """Images that losses are measured on before and after."""
        if self.request.num_evaluated is None:
            return DEFAULT_EVALUATED if self.request.control else 0
        return self.request.num_evaluated


def set_up(request: FinetuneRequest, reporter: Reporter) -> FinetuneSetup:
    """Fill in and check a request; of the weights, nothing but their hash is read.

    Raises:
        MedcliError: If something can't be found, or values contradict each other, the model or the data.
    """
    processes = this_process()
    told = reporter if processes.is_first else Silent()
    device = own_device(request.device, processes)
    _check_machine(request.training, device)
    equal_share(request.training.global_batch_size, processes.count)
    start = initial_network(
        request.network, request.preset, seed=request.training.seed, data=request.data, autoencoder=request.vae
    )
    training = _in_pieces(_training(request, start), start.config, device, processes)
    selection = select(start.config, request.train, request.freeze)
    output = request.output or RUNS / Path(request.data).resolve().name
    _check_places(output, request.training.resume)
    data = open_training_set(
        request.data,
        start.config,
        autoencoder=None if request.vae == PIXELS else request.vae,
        device=device,
        flip=request.flip,
        reporter=told,
    )
    if request.preset is not None and request.network.num_classes is None:
        start = with_classes(start, data.num_classes)
        selection = select(start.config, request.train, request.freeze)
    teacher = None if request.distill is None else teacher_of(request.distill, start.config, training.loss)
    remark_on_changes(start, told, is_calibrated=request.calibrate)
    remark_on_output(start, training.loss, told)
    _remark_on_classes(data, start, told)
    if remark := launch_remark():
        told.note(remark)
    return FinetuneSetup(
        request=request,
        start=start,
        data=data,
        training=training,
        selection=selection,
        teacher=teacher,
        output=output,
        device=device,
        processes=processes,
        identity=_identity(request, output, start, teacher),
    )


def _check_machine(training: TrainingSettings, device: torch.device) -> None:
    if training.dtype == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"--dtype fp16 needs a CUDA device, this run is on {device.type}", hint="use --dtype fp32, or bf16"
        )


def _check_places(output: Path, resume: str) -> None:
    """Refuse places that hold something else; what another run left there is compared by its states."""
    if resume not in (AUTO, NEVER) and not Path(resume).exists():
        raise CheckpointError(f"there is no state {resume}", hint="--resume auto goes on from what --output holds")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file, expected a folder name", hint="choose another name with --output")
    if (output / CHECKPOINT).exists() and not any(output.glob(STATES)):
        raise ConfigError(
            f"{output} holds a {CHECKPOINT} and no training state", hint="choose another folder with --output"
        )


def _training(request: FinetuneRequest, start: Network) -> TrainConfig:
    """The run, with the counts it trains and what it minimises."""
    config = start.config
    training = TrainConfig(
        **vars(request.training),
        counts=_trained_counts(config.mediators, request.train_dense),
        loss=loss_of(request, start),
        masking=_masking(request),
    )
    training.check_family(config.family)
    if training.masking is not None:
        mask_sites(config, training.masking)
        if request.distill is not None:
            raise ConfigError(
                "--mask and --distill can't be combined: the teacher knows no masks", hint="leave one of them out"
            )
    if request.calibrate and not config.mediators:
        raise ConfigError("--calibrate fits mediators, and this model has none", hint="add --mediators 4,16,64")
    if request.calibrate:
        check_calibration(config)
    if request.calibrate and request.preset is not None:
        raise ConfigError(
            "--calibrate fits mediators to a trained network, and a preset has fresh weights",
            hint="leave --calibrate out",
        )
    if not config.has_null_class and training.label_dropout:
        return replace(training, label_dropout=0.0)  # there is no class to drop labels to
    return training


def _masking(request: FinetuneRequest) -> Masking | None:
    """Return the masked pass; ranges that are not given keep the references'."""
    if request.mask is None:
        return None
    ratios = {} if request.mask_ratios is None else {"ratios": request.mask_ratios}
    mid = {} if request.mask_mid is None else {"mid": None if request.mask_mid == "none" else request.mask_mid}
    given: dict[str, Any] = {**ratios, **mid}
    return Masking(where=request.mask, **given)


def _in_pieces(training: TrainConfig, config: ModelConfig, device: torch.device, processes: Processes) -> TrainConfig:
    """Choose a micro-batch size on a CPU, if none is given, small enough for the processor's cache.

    This is a tenth faster than the whole batch at once and takes a fraction of the memory (docs/finetuning.md).
    """
    if training.micro_batch_size is not None or device.type != "cpu":
        return training
    share = math.ceil(training.global_batch_size / processes.count)
    num_pieces = math.ceil(share * token_bytes(config) / CPU_TOKEN_BYTES)
    return replace(training, micro_batch_size=math.ceil(share / num_pieces))


def token_bytes(config: ModelConfig) -> int:
    """Size of one image's tokens between two blocks, float32."""
    first = blocks(config)[0]
    return torch.float32.itemsize * first.num_tokens * first.width


def _trained_counts(ladder: tuple[int, ...], train_dense: bool | None) -> tuple[int, ...]:
    """Counts to train. Several share one set of projections, and full attention keeps them near the parent's."""
    if not ladder:
        if train_dense is False:
            raise ConfigError(
                "without mediators and full attention there is nothing to train", hint="add --mediators 4,16,64"
            )
        return (0,)
    is_dense_trained = len(ladder) > 1 if train_dense is None else train_dense
    return (0, *ladder) if is_dense_trained else ladder


def _remark_on_classes(data: TrainingSet, start: Network, reporter: Reporter) -> None:
    """Tell where the model has classes without images: they keep what they were, or forget it."""
    if data.num_classes < start.config.num_classes:
        reporter.note(
            f"{data.name} has {data.num_classes} classes, the model {start.config.num_classes}: the others get no "
            f"images; --num-classes {data.num_classes} leaves them out"
        )


def _identity(request: FinetuneRequest, output: Path, start: Network, teacher: Network | None) -> dict[str, Any]:
    """Return what a resumed run must share; contents are hashed as its beginning has recorded them."""
    earlier = _recorded_start(Path(request.training.resume).parent) or _recorded_start(output)
    weights: dict[str, Any] = {"fresh": start.name}
    if start.info is not None:
        weights = {**start.content_id(earlier.get(STARTING_WEIGHTS)), "weights": start.info.weights}
    return {
        STARTING_WEIGHTS: weights,
        "calibration": request.calibrate,
        "teacher": None if teacher is None else _teacher_id(teacher, earlier.get("teacher")),
    }


def _teacher_id(teacher: Network, earlier: object) -> str:
    """Return the teacher's fingerprint; to be compared with an older run's record, the hash of its file."""
    is_whole = isinstance(earlier, str) and not earlier.startswith(FINGERPRINT_PREFIX)
    return file_sha256(teacher.opened.info.path) if is_whole else teacher.fingerprint


def _recorded_start(folder: Path) -> dict[str, Any]:
    """Return what the `config.json` of a run says of the networks it started with; empty without a readable one."""
    try:
        start = read_json(folder / "config.json")["start"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return start if isinstance(start, dict) else {}

"""Setup of a fine-tuning run: the request, the network and the data, combined and checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from os.path import realpath
from pathlib import Path
from typing import Any

import torch

from medcli.checkpoint.fingerprint import PREFIX as FINGERPRINT_PREFIX
from medcli.checkpoint.run_state import FINISHED, STATES
from medcli.config import ModelConfig
from medcli.data.assets import BUNDLES
from medcli.data.training_set import LenientSet
from medcli.errors import CheckpointError, ConfigError
from medcli.model.layout import blocks
from medcli.network import Network, note_remarks
from medcli.runtime.device import use_device
from medcli.runtime.files import file_sha256
from medcli.runtime.json_records import read_json
from medcli.runtime.processes import Processes, launch_remark, this_process
from medcli.runtime.reporting import Reporter, Silent
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.training import TrainingSettings
from medcli.training.calibration import check_calibration
from medcli.training.config import AUTO, NEVER, TrainConfig
from medcli.training.distributed import equal_share
from medcli.training.masking import Masking, mask_sites
from medcli.training.objective import LossConfig
from medcli.training.selection import Selection, select
from medcli.training.train import check_device
from medcli.workflows.finetune.epochs import steps_of, with_any_steps
from medcli.workflows.finetune.initial_model import (
    initial_network,
    remark_on_changes,
    remark_on_classes,
    with_classes,
    with_data,
)
from medcli.workflows.finetune.loss import loss_of, remark_on_output, teacher_of
from medcli.workflows.finetune.self_data import of_its_parent, open_data
from medcli.workflows.sample.defaults import sampling_defaults

RUNS = Path("runs")
STARTING_WEIGHTS = "set of starting weights"
"""Key in the record and in messages."""
CONTROL = "control"
"""Folder of the control's run in that of the run."""
WRITTEN = (".safetensors", ".json", ".jsonl")
"""Endings of a run's files."""
DEFAULT_EVALUATED = 512
"""Default number of images for the losses before and after a run with a control."""
CPU_TOKEN_BYTES = 2**21
"""Default limit, on a CPU, of the size of a micro-batch's tokens between two blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSetup:
    """A checked request with all values resolved; no weights are loaded."""

    request: FinetuneRequest
    start: Network
    data: LenientSet
    training: TrainConfig
    selection: Selection
    teacher: Network | None
    output: Path
    device: torch.device
    processes: Processes
    identity: dict[str, Any] = field(default_factory=dict)
    """Settings that a resumed run must not change, beside those that `train` compares itself."""

    @property
    def config(self) -> ModelConfig:
        """Configuration of the network."""
        return self.start.config

    @property
    def autoencoder(self) -> str | None:
        """Autoencoder that decodes its latents; None: the model's own."""
        return self.start.autoencoder

    @property
    def resumed_folder(self) -> Path | None:
        """Folder of the training checkpoint that the run resumes from; None: it starts from its first step."""
        resume = self.training.resume
        if resume == AUTO:
            return self.output if any(self.output.glob(STATES)) else None
        path = Path(resume)
        return None if resume == NEVER else path if path.is_dir() else path.parent

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling defaults of the trained network: the source's, with the path and prediction of the training."""
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
        """Number of images for the losses before and after."""
        if self.request.num_evaluated is None:
            return DEFAULT_EVALUATED if self.request.control else 0
        return self.request.num_evaluated


def set_up(request: FinetuneRequest, reporter: Reporter) -> FinetuneSetup:
    """Resolve and check a request; no weights are loaded.

    Raises:
        MedcliError: If something can't be found, or values contradict each other, the model or the data.
    """
    processes = this_process()
    first_reporter = reporter if processes.is_first else Silent()
    device = use_device(request.device, processes)
    check_device(request.training.dtype, device)
    equal_share(request.training.global_batch_size, processes.count)
    request = with_data(request, first_reporter)
    start = initial_network(request)
    request = of_its_parent(request, start)
    training = _in_pieces(_training(with_any_steps(request), start), start.config, device, processes)
    output = request.output or RUNS / Path(realpath(request.data_name)).name
    _check_places(output, request.training.resume, has_control=request.control)
    teacher = None if request.distill is None else teacher_of(request.distill, start.config, training)
    data = LenientSet(open_data(request, start, output, device, first_reporter))
    if request.epochs is not None:
        training = replace(training, steps=steps_of(request.epochs, data.num_images, training.global_batch_size))
    if start.info is None and request.network.num_classes is None:
        start = with_classes(start, data.num_classes)
    selection = select(start.config, request.train, request.freeze)
    note_remarks([start], first_reporter)
    remark_on_changes(start, first_reporter, is_calibrated=request.calibrate)
    remark_on_output(start, training.loss, first_reporter)
    remark_on_classes(data, start, first_reporter)
    if remark := launch_remark():
        first_reporter.note(remark)
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
        identity=_identity(request, data, output, start, teacher),
    )


def _check_places(output: Path, resume: str, *, has_control: bool) -> None:
    """Refuse an output that can't become a folder of a run, and a missing checkpoint to resume from."""
    if resume not in (AUTO, NEVER) and not Path(resume).exists():
        raise CheckpointError(
            f"no training checkpoint at {resume}", hint="--resume auto resumes from the newest one in --output"
        )
    for folder in (output, *([output / CONTROL] if has_control else [])):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file, expected a folder name", hint="choose another name with --output")
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix in WRITTEN and not path.is_file():
                raise ConfigError(f"{path} is in the way of a file of this run", hint="move it elsewhere")
    if (output / FINISHED).exists() and not any(output.glob(STATES)):
        raise ConfigError(
            f"{output} holds a {FINISHED} and no training checkpoint", hint="choose another folder with --output"
        )


def _training(request: FinetuneRequest, start: Network) -> TrainConfig:
    """Return the run's settings with its mediator counts, loss and masking."""
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
                "--mask and --distill can't be combined: the teacher sees no masks", hint="leave one of them out"
            )
    if request.calibrate and not config.mediators:
        raise ConfigError("--calibrate fits mediators, and this model has none", hint="add --mediators 4,16,64")
    if request.calibrate:
        check_calibration(config)
    if request.calibrate and start.info is None:
        raise ConfigError(
            "--calibrate fits mediators to a trained network, and this one starts from random weights",
            hint="leave --calibrate out",
        )
    if len(training.counts) == 1 and training.ladder_rule != TrainingSettings().ladder_rule:
        raise ConfigError("--ladder-rule does nothing with one count to train", hint="leave --ladder-rule out")
    if config.has_null_class or not training.label_dropout:
        return training
    if training.label_dropout != TrainingSettings().label_dropout:
        raise ConfigError("this model has no null class to drop labels to", hint="leave --label-dropout out")
    return replace(training, label_dropout=0.0)


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
    """Return the counts to train; several include full attention, to keep shared projections near the parent's."""
    if not ladder:
        if train_dense is False:
            raise ConfigError(
                "there is nothing to train without mediators and full attention", hint="add --mediators 4,16,64"
            )
        if train_dense:
            raise ConfigError("--train-dense does nothing without mediators", hint="leave --train-dense out")
        return (0,)
    is_dense_trained = len(ladder) > 1 if train_dense is None else train_dense
    return (0, *ladder) if is_dense_trained else ladder


def _identity(
    request: FinetuneRequest, data: LenientSet, output: Path, start: Network, teacher: Network | None
) -> dict[str, Any]:
    """Return settings that a resumed run must not change; contents are hashed as its beginning has recorded them."""
    resume = Path(request.training.resume)
    earlier = _recorded_start(resume if resume.is_dir() else resume.parent) or _recorded_start(output)
    weights: dict[str, Any] = {"fresh": start.name}
    if start.info is not None:
        weights = {**start.content_id(earlier.get(STARTING_WEIGHTS)), "weights": start.info.weights}
    return {
        STARTING_WEIGHTS: weights,
        "calibration": request.calibrate,
        "teacher": None if teacher is None else _teacher_id(teacher, earlier.get("teacher")),
        **({} if request.flip or data.name in BUNDLES else {"flips": False}),
    }


def _teacher_id(teacher: Network, earlier: object) -> str:
    """Return the teacher's fingerprint; to be compared with an older run's record, the hash of its file."""
    is_whole = isinstance(earlier, str) and not earlier.startswith(FINGERPRINT_PREFIX)
    return file_sha256(teacher.opened.info.path) if is_whole else teacher.fingerprint


def _recorded_start(folder: Path) -> dict[str, Any]:
    """Return the record in a run's `config.json` of the networks it started with; empty without a readable one."""
    try:
        start = read_json(folder / "config.json")["start"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return start if isinstance(start, dict) else {}

"""Plan of a run, with measured memory and time: `medcli finetune --dry-run`. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from medcli.checkpoint.run_state import FINISHED, STATES
from medcli.cost.macs import GIGA, closed_form_macs
from medcli.model.layout import num_params
from medcli.runtime.json_records import json_fields
from medcli.runtime.reporting import Reporter
from medcli.runtime.timing import Clock, clock_for
from medcli.settings.finetune import SELF, FinetuneRequest
from medcli.training.batches import Batches
from medcli.training.config import AUTO
from medcli.training.optimizers import NUM_MOMENTS
from medcli.training.selection import ParameterGroup
from medcli.training.step_trial import FLOAT_BYTES, StepMemory, StepTime, StepTrial, count_shares, try_step
from medcli.workflows.finetune.previews import FOLDER
from medcli.workflows.finetune.record import RECORD
from medcli.workflows.finetune.run import load_teacher
from medcli.workflows.finetune.self_data import SAMPLES
from medcli.workflows.finetune.setup import CONTROL, FinetuneSetup, set_up, token_bytes
from medcli.workflows.finetune.trackers import require_trackers

CPU_TRIED_BYTES = 2**22
"""Limit of the measured micro-batch on a CPU, in bytes of tokens between two blocks; larger ones are extrapolated."""
READ_IMAGES = 8
"""Number of images that are read to time the data."""
METRICS = "metrics.jsonl"
TRAINING_PASSES = 3
"""MACs of a forward and a backward pass, in forward passes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetunePlan:
    """Settings of a run and its measured cost."""

    model: str
    family: str
    resolution_px: int
    mediators: tuple[int, ...]
    layers: tuple[int, ...]
    """Blocks with mediators."""
    depth: int
    counts: tuple[int, ...]
    """Mediator counts trained; 0: full attention."""
    ladder_rule: str
    timesteps: str
    """Distribution of training times: `even` or `loss`."""
    groups: tuple[ParameterGroup, ...]
    data: str
    num_images: int
    """Number of images in the data set."""
    steps: int
    steps_done: int
    """Steps done by the newest saved state of the output folder."""
    global_batch_size: int
    micro_batch_size: int
    """Number of images of a forward pass in one process."""
    processes: int
    device: str
    gmacs_per_step: float
    """GMACs of all processes, forward and backward, in the papers' convention, averaged over the counts."""
    memory: StepMemory
    """Memory of one process."""
    time: StepTime
    data_secs: float
    """Seconds to read one process's rows of a batch, in a thread beside the step."""
    state_bytes: int
    """Size of a saved state."""
    num_states: int
    """Maximum number of states on the disk, the one being written included."""
    output: str
    files: tuple[str, ...]

    @property
    def num_trained(self) -> int:
        """Number of trained parameters."""
        return sum(group.num_trained for group in self.groups)

    @property
    def num_frozen(self) -> int:
        """Number of frozen parameters."""
        return sum(group.num_frozen for group in self.groups)

    @property
    def images_seen(self) -> int:
        """Number of images of all steps."""
        return self.steps * self.global_batch_size

    @property
    def epochs(self) -> float:
        """Number of epochs."""
        return self.images_seen / self.num_images

    @property
    def step_secs(self) -> float:
        """Seconds of a step: computing, or reading its data if that takes longer."""
        return max(self.time.passes + self.time.update, self.data_secs)

    @property
    def total_secs(self) -> float:
        """Seconds of the remaining steps, without previews and saving."""
        return self.step_secs * max(0, self.steps - self.steps_done)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, units in the names."""
        names = (
            *("model", "family", "resolution_px", "depth", "ladder_rule", "data", "num_images", "steps", "steps_done"),
            *("global_batch_size", "micro_batch_size", "processes", "device", "gmacs_per_step", "data_secs"),
            *("state_bytes", "num_states", "output", "num_trained", "num_frozen", "images_seen", "epochs"),
            *("step_secs", "total_secs", "timesteps", "mediators", "layers", "groups", "memory", "files"),
        )
        return {
            "dry_run": True,
            **json_fields(self, *names),
            "entries": list(self.counts),
            "passes_secs": self.time.passes,
            "update_secs": self.time.update,
            "num_timed_images": self.time.num_timed_images,
        }


def plan_finetune(request: FinetuneRequest, reporter: Reporter, *, clock: Clock | None = None) -> FinetunePlan:
    """Set up a run, train on single micro-batches and scale their memory and time to a step.

    Compilation, previews and saving are not included.

    Args:
        clock: Replaces the device's clock.

    Raises:
        MedcliError: For everything that would stop the run before its first step, except states of another run in its
            folder.
    """
    setup = set_up(request, reporter)
    require_trackers(setup)
    training, config = setup.training, setup.config
    clock = clock or clock_for(setup.device, torch.get_num_threads())
    trial = _trial(setup, clock)
    return FinetunePlan(
        model=setup.start.name,
        family=config.family,
        resolution_px=config.resolution_px,
        mediators=config.mediators,
        layers=config.mediator_layers,
        depth=config.depth,
        counts=training.counts,
        ladder_rule=training.ladder_rule,
        timesteps=training.timesteps,
        groups=setup.selection.groups(),
        data=setup.data.name,
        num_images=setup.data.num_images,
        steps=training.steps,
        steps_done=_steps_done(setup),
        global_batch_size=training.global_batch_size,
        micro_batch_size=setup.micro_batch_size,
        processes=setup.processes.count,
        device=str(setup.device),
        gmacs_per_step=_gmacs_per_step(setup),
        memory=trial.memory,
        time=trial.time,
        data_secs=_data_secs(setup, setup.share, clock),
        state_bytes=_state_bytes(setup),
        num_states=training.keep_last + 1,
        output=str(setup.output),
        files=_files(setup),
    )


def _trial(setup: FinetuneSetup, clock: Clock) -> StepTrial:
    """Measure a micro-batch."""
    model = setup.start.load(dtype=torch.float32)
    setup.selection.apply(model)
    num_tried = setup.micro_batch_size
    if setup.device.type == "cpu":
        num_tried = max(1, min(num_tried, CPU_TRIED_BYTES // token_bytes(setup.config)))
    return try_step(
        model,
        load_teacher(setup),
        setup.data,
        setup.training,
        device=setup.device,
        num_images=setup.share,
        micro_batch_size=setup.micro_batch_size,
        num_tried=num_tried,
        clock=clock,
    )


def _steps_done(setup: FinetuneSetup) -> int:
    """Read the steps done from the names of the states in the folder."""
    if setup.training.resume != AUTO:
        return 0
    steps = (int(file.stem.rpartition("-")[2]) for file in setup.output.glob(STATES))
    return max(steps, default=0)


def _gmacs_per_step(setup: FinetuneSetup) -> float:
    shares = count_shares(setup.training.ladder_rule, setup.training.counts)
    num_passes = 1 if setup.training.masking is None else 2
    a_pass = num_passes * sum(
        share * closed_form_macs(setup.config, num_mediators=count) for count, share in shares.items()
    )
    return TRAINING_PASSES * setup.training.global_batch_size * a_pass / GIGA


def _data_secs(setup: FinetuneSetup, num_images: int, clock: Clock) -> float:
    """Time the reading of a few images and scale it to a process's rows of a batch."""
    rows = range(min(READ_IMAGES, num_images))
    batches = Batches.of(setup.data, setup.training, setup.config, rows=rows, device=setup.device)
    batches.draw(0)
    return clock.time(lambda: batches.draw(1)).wall_seconds * num_images / len(rows)


def _state_bytes(setup: FinetuneSetup) -> int:
    """Size of a state: weights, and the average and moments of what is trained."""
    kept = 1 + NUM_MOMENTS[setup.training.optimizer]
    return FLOAT_BYTES * (num_params(setup.config) + kept * setup.selection.num_trained)


def _files(setup: FinetuneSetup) -> tuple[str, ...]:
    """List the files the run will write."""
    request = setup.request
    wanted = {
        f"{SAMPLES}/": request.data_name == SELF,
        RECORD: True,
        METRICS: True,
        STATES: True,
        f"{FOLDER}/": bool(request.preview_every),
        "tensorboard/": request.tensorboard,
        "calibration.json": request.calibrate,
        FINISHED: True,
        "report.json": True,
        f"{CONTROL}/": request.control,
    }
    return tuple(name for name, is_made in wanted.items() if is_made)

"""What a run would do and take, without doing it: `medcli finetune --dry-run`. Nothing is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from medcli.cost.macs import closed_form_macs
from medcli.model.layout import num_params
from medcli.runtime.reporting import Reporter
from medcli.runtime.timing import Clock, clock_for
from medcli.training.batches import Batches
from medcli.training.config import AUTO
from medcli.training.memory_estimate import MemoryEstimate, estimate_memory
from medcli.training.optimizers import NUM_MOMENTS
from medcli.training.selection import ParameterGroup
from medcli.training.step_pieces import FLOAT_BYTES
from medcli.training.time_estimate import TimeEstimate, count_shares, estimate_seconds
from medcli.workflows.finetune.comparison import CONTROL
from medcli.workflows.finetune.previews import FOLDER
from medcli.workflows.finetune.record import RECORD
from medcli.workflows.finetune.request import FinetuneRequest
from medcli.workflows.finetune.setup import CHECKPOINT, STATES, FinetuneSetup, set_up
from medcli.workflows.finetune.trackers import require_trackers

TRIED_IMAGES = 8
"""Images that are read to see how long that takes."""
METRICS = "metrics.jsonl"
GIGA = 1e9
TRAINING_PASSES = 3
"""Forward passes that the products of a forward and a backward pass come to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetunePlan:
    """What a run would do and take."""

    model: str
    family: str
    resolution_px: int
    mediators: tuple[int, ...]
    layers: tuple[int, ...]
    """Blocks with mediators."""
    depth: int
    counts: tuple[int, ...]
    """Mediator counts trained; 0 is full attention."""
    ladder_rule: str
    timesteps: str
    """How training times are drawn: `even` or `loss`."""
    groups: tuple[ParameterGroup, ...]
    data: str
    num_images: int
    """Images in the data set."""
    steps: int
    steps_done: int
    """Steps that saved states in the folder already hold."""
    global_batch_size: int
    micro_batch_size: int
    """Images of one pass in one process."""
    processes: int
    device: str
    gmacs_per_step: float
    """Of all processes, forward and backward, in the papers' convention, in the mean over the counts."""
    memory: MemoryEstimate
    """Of one process."""
    time: TimeEstimate
    data_secs: float
    """To make one process's share of a batch, in a thread beside the step."""
    state_bytes: int
    """One saved state."""
    num_states: int
    """States on the disk at once, the one being written included."""
    output: str
    files: tuple[str, ...]

    @property
    def num_trained(self) -> int:
        """Parameters that change."""
        return sum(group.num_trained for group in self.groups)

    @property
    def num_frozen(self) -> int:
        """Parameters that stay."""
        return sum(group.num_frozen for group in self.groups)

    @property
    def images_seen(self) -> int:
        """Over all steps."""
        return self.steps * self.global_batch_size

    @property
    def epochs(self) -> float:
        """Times the run sees each image."""
        return self.images_seen / self.num_images

    @property
    def step_secs(self) -> float:
        """Of a step: computing, or making its data where that takes longer."""
        return max(self.time.passes + self.time.update, self.data_secs)

    @property
    def total_secs(self) -> float:
        """Of the steps that are left; pictures and saving not counted."""
        return self.step_secs * max(0, self.steps - self.steps_done)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, units in the names."""
        names = (
            *("model", "family", "resolution_px", "depth", "ladder_rule", "data", "num_images", "steps", "steps_done"),
            *("global_batch_size", "micro_batch_size", "processes", "device", "gmacs_per_step", "data_secs"),
            *("state_bytes", "num_states", "output", "num_trained", "num_frozen", "images_seen", "epochs"),
            *("step_secs", "total_secs", "timesteps"),
        )
        return {
            "dry_run": True,
            **{name: getattr(self, name) for name in names},
            "mediators": list(self.mediators),
            "layers": list(self.layers),
            "entries": list(self.counts),
            "groups": [asdict(group) for group in self.groups],
            "memory": self.memory.to_json(),
            "passes_secs": self.time.passes,
            "update_secs": self.time.update,
            "num_timed_images": self.time.num_timed_images,
            "files": list(self.files),
        }


def plan_finetune(request: FinetuneRequest, reporter: Reporter, *, clock: Clock | None = None) -> FinetunePlan:
    """Work out what a run would do and take.

    Memory comes from shapes and from one block of each kind that is run for it; time from blocks, an update and some
    images that are timed here and added up. Compilation, previews and saving are not counted.

    Args:
        request: The run.
        reporter: Told what is worth a remark.
        clock: Replaces the device's clock.

    Raises:
        MedcliError: For all that would stop the run before its first step, but for states of another run in its folder.
    """
    setup = set_up(request, reporter)
    require_trackers(setup)
    step, training, config = setup.step, setup.training, setup.config
    clock = clock or clock_for(setup.device, torch.get_num_threads())
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
        micro_batch_size=step.micro_batch_size,
        processes=setup.processes.count,
        device=str(setup.device),
        gmacs_per_step=_gmacs_per_step(setup),
        memory=estimate_memory(step, setup.device),
        time=estimate_seconds(step, training.ladder_rule, setup.device, clock),
        data_secs=_data_secs(setup, step.num_images, clock),
        state_bytes=_state_bytes(setup),
        num_states=training.keep_last + 1,
        output=str(setup.output),
        files=_files(setup),
    )


def _steps_done(setup: FinetuneSetup) -> int:
    """What the names of the states in the folder say."""
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
    """What making a process's share of a batch takes, from a few images of it."""
    rows = range(min(TRIED_IMAGES, num_images))
    batches = Batches.of(setup.data, setup.training, setup.config, rows=rows, device=setup.device)
    batches.draw(0)
    return clock.time(lambda: batches.draw(1)).wall_seconds * num_images / len(rows)


def _state_bytes(setup: FinetuneSetup) -> int:
    """Weights, and of what is trained the average and the optimiser's moments."""
    kept = 1 + NUM_MOMENTS[setup.training.optimizer]
    return FLOAT_BYTES * (num_params(setup.config) + kept * setup.selection.num_trained)


def _files(setup: FinetuneSetup) -> tuple[str, ...]:
    """What the folder will hold."""
    request = setup.request
    wanted = {
        RECORD: True,
        METRICS: True,
        STATES: True,
        f"{FOLDER}/": bool(request.preview_every),
        "tensorboard/": request.tensorboard,
        "calibration.json": request.calibrate,
        CHECKPOINT: True,
        "report.json": True,
        f"{CONTROL}/": request.control,
    }
    return tuple(name for name, is_made in wanted.items() if is_made)

"""How long a training step will take: one block of each kind timed on this machine, and added up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from medcli.config import ModelConfig
from medcli.runtime.timing import Clock
from medcli.training.ladder_rule import counts_of_step
from medcli.training.optimizers import optimizer_of
from medcli.training.selection import Selection
from medcli.training.step_pieces import Kind, Piece, StepShape, block_piece, ends_piece, kinds_of

CPU_STREAM_BYTES = 2**20
"""On a CPU no more images are timed than fill this much of what a block hands to the next: time grows evenly there."""
UPDATED_NUMBERS = 2**22
"""Parameters whose update is timed."""
SETTLED = 60
"""Steps, and rows of each, over which the shares of the counts settle."""
RUNS = 2
"""Runs of each piece of which the quicker counts, after one untimed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeEstimate:
    """Seconds of a step in one process."""

    passes: float
    """Forward and backward, averaged over the mediator counts as often as they are trained; the teacher's forward."""
    update: float
    """Clipping, AdamW and the moving average."""
    num_timed_images: int
    """Images of the passes that were timed."""


def estimate_seconds(step: StepShape, rule: str, device: torch.device, clock: Clock) -> TimeEstimate:
    """Time the pieces of a step.

    Args:
        step: The step.
        rule: Says how often each count is trained, see `counts_of_step`.
        device: Where it will run.
        clock: How to time.
    """
    timed = step.micro_batch_size
    if device.type == "cpu":
        timed = max(1, min(timed, CPU_STREAM_BYTES * timed // step.stream_bytes))
    pieces = _Pieces(step, timed, device, clock)
    seconds = {count: pieces.whole_seconds(count) for count in step.counts}
    mean = sum(share * seconds[count] for count, share in count_shares(rule, step.counts).items())
    if step.teacher is not None:
        mean += _Pieces(_answering(step, step.teacher), timed, device, clock).whole_seconds(0)
    return TimeEstimate(
        passes=(2 if step.is_masked else 1) * mean / timed * step.num_images,
        update=_update_seconds(step, device, clock),
        num_timed_images=timed,
    )


def _answering(step: StepShape, teacher: ModelConfig) -> StepShape:
    """What a teacher does for a step: nothing of it is trained."""
    return replace(step, config=teacher, selection=Selection(frozenset(), teacher), teacher=None)


def count_shares(rule: str, counts: tuple[int, ...]) -> dict[int, float]:
    """The share of a run's images that goes through each count, see `counts_of_step`."""
    rows = [count for step in range(SETTLED) for count in counts_of_step(rule, counts, 0, step, SETTLED)]
    return {count: rows.count(count) / len(rows) for count in counts}


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The parts of a network, each timed once."""

    step: StepShape
    num_images: int
    device: torch.device
    clock: Clock
    known: dict[tuple[Kind | None, int], float] = field(default_factory=dict)

    def whole_seconds(self, count: int) -> float:
        """Both passes through the whole network at one count."""
        total = self._seconds(None, 0)
        for kind, number in kinds_of(self.step).items():
            has_mediators = kind.layer in self.step.config.mediator_layers
            total += number * self._seconds(kind, count if has_mediators else 0)
        return total

    def _seconds(self, kind: Kind | None, count: int) -> float:
        """Of a block of a kind; None: of the ends."""
        if (kind, count) not in self.known:
            make = ends_piece(self.step, self.device) if kind is None else block_piece(self.step, kind, self.device)
            self.known[kind, count] = _passes_seconds(make, self.num_images, count, self.clock)
        return self.known[kind, count]


def _passes_seconds(piece: Piece, num_images: int, count: int, clock: Clock) -> float:
    def run() -> None:
        output = piece.forward(num_images, count)
        if output.requires_grad:
            output.sum().backward()

    run()
    return min(clock.time(run).wall_seconds for _ in range(RUNS))


def _update_seconds(step: StepShape, device: torch.device, clock: Clock) -> float:
    """What follows the passes, timed on as many parameters as are enough."""
    num_trained = step.selection.num_trained
    size = min(num_trained, UPDATED_NUMBERS)
    parameter = nn.Parameter(torch.zeros(size, device=device))
    average = torch.zeros_like(parameter)
    optimizer = optimizer_of([parameter], 1e-4, device, step.optimizer)

    def run() -> None:
        parameter.grad = torch.zeros_like(parameter)
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()
        averages: list[Tensor] = [average]
        torch._foreach_lerp_(averages, [parameter.detach()], 1e-4)

    run()
    return min(clock.time(run).wall_seconds for _ in range(RUNS)) * num_trained / size

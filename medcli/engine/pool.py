"""The state of images in flight, as tensors, and the choice of the next batch.

Latents live on the device. The scheduling state, a few numbers per image, lives on the CPU, so the device waits for one
transfer per iteration (the distances).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medcli.engine.batched_rule import observe
from medcli.engine.guidance_phases import Phase
from medcli.schedule.dynamic import DynamicSchedule

# Dimension key: P images in flight, B images of a batch, J moves along the ladder, C Y X latent.

FREE = -1
"""Index of a free slot."""
NO_MOVE = -1
NO_STEP = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """State of the images in flight, one slot per image. Tensors are updated in place; latents are on the device."""

    latent_PCYX: Tensor
    memory_PMCYX: Tensor
    """Slopes of each image's last steps, the newest first, for multistep solvers."""
    index_P: Tensor
    """Image number, or `FREE`."""
    label_P: Tensor
    step_P: Tensor
    """Next solver step."""
    ladder_index_P: Tensor
    """Ladder index at that step."""
    observed_P: Tensor
    """Number of distances observed."""
    warmup_sum_P: Tensor
    """Sum of the warm-up distances, float64."""
    moved_at_PJ: Tensor
    """Step whose result triggered each move, or `NO_MOVE`."""
    diverged_at_P: Tensor
    """First step whose result was not finite, or `NO_STEP`; on the device, so that nothing waits for it."""

    @property
    def is_empty(self) -> bool:
        """True if no image is in flight."""
        return bool((self.index_P == FREE).all())

    def free_slots(self) -> Tensor:
        """Return the free slots."""
        return (self.index_P == FREE).nonzero()[:, 0]


def empty_pool(
    num_slots: int, latent_shape: tuple[int, ...], num_moves: int, device: torch.device, num_remembered: int = 0
) -> Pool:
    """Create a pool without images.

    Args:
        num_slots: Capacity in images.
        latent_shape: (C, Y, X).
        num_moves: Length of the ladder minus one.
        device: Where the latents live.
        num_remembered: Slopes kept of each image, see `Sampler.num_remembered`.
    """

    def numbers(*shape: int, fill: int = 0) -> Tensor:
        return torch.full((num_slots, *shape), fill, dtype=torch.int64)

    return Pool(
        latent_PCYX=torch.zeros(num_slots, *latent_shape, device=device),
        memory_PMCYX=torch.zeros(num_slots, num_remembered, *latent_shape, device=device),
        index_P=numbers(fill=FREE),
        label_P=numbers(),
        step_P=numbers(),
        ladder_index_P=numbers(),
        observed_P=numbers(),
        warmup_sum_P=torch.zeros(num_slots, dtype=torch.float64),
        moved_at_PJ=numbers(num_moves, fill=NO_MOVE),
        diverged_at_P=numbers(fill=NO_STEP).to(device),
    )


def num_slots(num_buckets: int, batch_size: int, num_images: int, num_ahead: int = 0) -> int:
    """Return the images in flight that always fill one bucket: S (B - 1) + 1, by the pigeonhole principle.

    Args:
        num_buckets: Buckets S.
        batch_size: Rows B of a batch.
        num_images: Images there are.
        num_ahead: Images of batches that are launched and not read yet, beside these.
    """
    return max(1, min(num_buckets * (batch_size - 1) + 1 + num_ahead, num_images))


def enter(pool: Pool, slot_B: Tensor, index_B: Tensor, label_B: Tensor, latent_BCYX: Tensor) -> None:
    """Place new images in free slots."""
    on_device_B = slot_B.to(pool.latent_PCYX.device)
    pool.latent_PCYX[on_device_B] = latent_BCYX
    # The slot's former image may have left what is not finite: a weight of 0 would not undo it.
    pool.memory_PMCYX[on_device_B] = 0
    pool.diverged_at_P[on_device_B] = NO_STEP
    pool.index_P[slot_B], pool.label_P[slot_B] = index_B, label_B
    for numbers in (pool.step_P, pool.ladder_index_P, pool.observed_P, pool.warmup_sum_P):
        numbers[slot_B] = 0
    pool.moved_at_PJ[slot_B] = NO_MOVE


def store_states(pool: Pool, row_B: Tensor, step_B: Tensor, latent_BCYX: Tensor) -> None:
    """Store the states after a step, and the first step of each image that is not finite; all on the device."""
    pool.latent_PCYX[row_B] = latent_BCYX
    before_B = pool.diverged_at_P[row_B]
    is_first_B = (before_B == NO_STEP) & ~latent_BCYX.isfinite().flatten(1).all(dim=1)
    pool.diverged_at_P[row_B] = torch.where(is_first_B, step_B, before_B)


def leave(pool: Pool, slot_B: Tensor) -> None:
    """Free the slots of finished images."""
    pool.index_P[slot_B] = FREE


@dataclass(frozen=True, slots=True)
class SlotBatch:
    """The images of the next network call."""

    slot_B: Tensor
    """Slots of the images."""
    ladder_index: int
    """Common ladder index."""
    is_guided: bool
    """True if the null half runs too."""


def pick_batch(
    pool: Pool, batch_size: int, ladder_length: int, phase_L: Tensor, busy_B: Tensor | None = None
) -> SlotBatch | None:
    """Choose the next batch: at most `batch_size` images that share a ladder index, all of them guided or none.

    The fullest bucket runs while it fills a batch. Once none does (no image is left to refill the pool), the earliest
    phase runs, and in it the lowest index: images never go back, so running the laggards first lets later buckets
    fill, and fewer batches run partly empty. Low image numbers go first.

    Args:
        pool: The images in flight.
        batch_size: Rows per batch.
        ladder_length: Length of the ladder.
        phase_L: (L,) guidance phase of each solver step.
        busy_B: Slots whose step has been launched but not read. The batch is then one of other images, and a full one,
            or None: images that would share the batch may be among the busy ones.
    """
    is_taken_P = pool.index_P != FREE
    if busy_B is not None:
        is_taken_P[busy_B] = False
    taken_P = is_taken_P.nonzero()[:, 0]
    if busy_B is not None and len(taken_P) < batch_size:
        return None
    phase_P = phase_L[pool.step_P[taken_P]]
    rank_P = phase_P * ladder_length + pool.ladder_index_P[taken_P]
    # Before and after the interval the network runs the same way, without the null half.
    bucket_P = torch.where(phase_P == Phase.AFTER, pool.ladder_index_P[taken_P], rank_P)
    counts = torch.bincount(bucket_P)
    is_full = bool(counts.max() >= batch_size)
    if busy_B is not None and not is_full:
        return None
    bucket = int(counts.argmax() if is_full else bucket_P[rank_P.argmin()])
    member_B = taken_P[bucket_P == bucket]
    slot_B = member_B[pool.index_P[member_B].argsort()][:batch_size]
    return SlotBatch(slot_B, bucket % ladder_length, is_guided=bucket // ladder_length == Phase.INSIDE)


def advance(
    pool: Pool, slot_B: Tensor, distance_B: Tensor | None, rule: DynamicSchedule | None, num_deciding: int
) -> None:
    """Update images after a solver step, and move them along the ladder by their change.

    Args:
        pool: The images in flight.
        slot_B: Slots of the images that made the step.
        distance_B: (B,) float64 on the CPU, each image's distance; None without a dynamic rule.
        rule: The dynamic rule, or None.
        num_deciding: Number of first steps the rule observes.
    """
    step_B = pool.step_P[slot_B]
    pool.step_P[slot_B] = step_B + 1
    if rule is None or distance_B is None:
        return
    # The jump from the initial noise, made by step 0, does not count.
    seen_B = (step_B >= 1) & (step_B < num_deciding)
    slot_B, step_B, distance_B = slot_B[seen_B], step_B[seen_B], distance_B[seen_B]
    pool.observed_P[slot_B] += 1
    index_B, warmup_sum_B = observe(
        rule, pool.ladder_index_P[slot_B], pool.warmup_sum_P[slot_B], pool.observed_P[slot_B], distance_B
    )
    pool.warmup_sum_P[slot_B] = warmup_sum_B
    _climb(pool, slot_B, step_B, index_B)


def advance_by_progress(pool: Pool, slot_B: Tensor, index_L: Tensor) -> None:
    """Update images after a solver step, and move them along the ladder by their progress.

    Args:
        pool: The images in flight.
        slot_B: Slots of the images that made the step.
        index_L: (L,) int64 ladder index of each solver step.
    """
    step_B = pool.step_P[slot_B]
    pool.step_P[slot_B] = step_B + 1
    _climb(pool, slot_B, step_B, index_L[(step_B + 1).clamp(max=len(index_L) - 1)])


def _climb(pool: Pool, slot_B: Tensor, step_B: Tensor, index_B: Tensor) -> None:
    """Set the ladder index of each image's next step and note the moves its last step triggered."""
    before_B = pool.ladder_index_P[slot_B]
    pool.ladder_index_P[slot_B] = index_B
    for move in range(pool.moved_at_PJ.shape[1]):
        passed_B = (before_B <= move) & (move < index_B)
        pool.moved_at_PJ[slot_B[passed_B], move] = step_B[passed_B]

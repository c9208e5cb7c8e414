"""Sampling: image numbers in, in any order; finished latents out, each a function of (seed, number) alone.

Every image carries its own state, and images at different solver steps share a batch as long as they are at the same
ladder index. Batches always have `batch_size` rows: one shape for compiled graphs, and an image's rounding does not
depend on how many others are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from medcli.diffusion.steps import Sampler, build_sampler
from medcli.engine.adaptive import integrate_groups
from medcli.engine.batched_rule import distance, num_deciding
from medcli.engine.guidance_phases import null_calls, phases
from medcli.engine.networks import Guidance, LadderNetwork, guided
from medcli.engine.observer import Observer, StepRows
from medcli.engine.plan import (
    FinishedImage,
    Indices,
    Noise,
    SamplingPlan,
    check_plan,
    diverged,
    latent_shape_of,
    philox_noise,
)
from medcli.engine.pool import (
    NO_MOVE,
    NO_STEP,
    Pool,
    SlotBatch,
    advance,
    advance_by_progress,
    empty_pool,
    enter,
    leave,
    num_slots,
    pick_batch,
    store_states,
)
from medcli.errors import ConfigError
from medcli.runtime.readback import Readback
from medcli.runtime.reporting import Reporter, Silent
from medcli.settings.sampler import ADAPTIVE_SOLVERS

# Dimension key: B images of a batch, C latent channels, Y X latent height and width.


def generate(
    networks: Sequence[LadderNetwork],
    plan: SamplingPlan,
    indices: Indices,
    *,
    max_in_flight: int | None = None,
    device: torch.device | str = "cpu",
    noise: Noise | None = None,
    observer: Observer | None = None,
    reporter: Reporter | None = None,
) -> Iterator[FinishedImage]:
    """Generate images.

    Args:
        networks: The network of each ladder index of `plan.schedule`, on `device`.
        plan: Sampling settings.
        indices: Numbers of the images to generate, each once; consumed one by one, as slots become free.
        max_in_flight: Maximum number of images in flight; None: as many as keep every batch full.
        noise: Replaces the seeded noise, for comparison with recorded runs.
        observer: Called for every batch; needs a fixed-step solver.
        reporter: Receives progress in images, of those in flight the share of their solver steps.

    Returns:
        Images as they finish; their order depends on the schedule and the batch size, their content does not.

    Raises:
        ConfigError: If the plan and the networks do not fit together.
    """
    if tuple(network.num_mediators for network in networks) != plan.schedule.counts:
        raise ConfigError(f"the networks do not have the schedule's mediator counts {list(plan.schedule.counts)}")
    check_plan(networks[0].config, plan)
    noise = noise or philox_noise(plan.seed, latent_shape_of(networks[0]))
    device, reporter = torch.device(device), reporter or Silent()
    if plan.sampler.solver in ADAPTIVE_SOLVERS:
        if observer is not None:
            raise ConfigError(
                f"--solver {plan.sampler.solver} chooses its own steps, so there are none to observe",
                hint="use --solver heun",
            )
        return integrate_groups(networks[0], plan, indices, device, noise, reporter)
    limit = len(indices) if max_in_flight is None else max_in_flight
    return _run(_Loop.of(networks, plan, device, noise, observer), indices, limit, reporter)


def _run(loop: _Loop, indices: Indices, limit: int, reporter: Reporter) -> Iterator[FinishedImage]:
    queue, done = iter(indices), 0
    batch_size, ladder_length = loop.plan.batch_size, len(loop.networks)
    num_buckets = ladder_length * (2 if loop.plan.guidance.is_partial else 1)
    slots = num_slots(num_buckets, batch_size, limit, batch_size if loop.launches_ahead else 0)
    pool = empty_pool(
        slots, latent_shape_of(loop.networks[0]), ladder_length - 1, loop.device, loop.sampler.num_remembered
    )
    loop.refill(pool, queue)
    launched: _Launched | None = None
    while launched is not None or not pool.is_empty:
        batch = None
        if launched is None or loop.launches_ahead:
            busy_B = None if launched is None else launched.slot_B
            batch = pick_batch(pool, batch_size, ladder_length, loop.phase_L, busy_B)
        # Launched before the distances of the last batch are read, so that the device always has work.
        following = None if batch is None else loop.launch(pool, batch)
        if launched is not None:
            loop.advance(pool, launched)
            done += len(launched.slot_B)
            yield from loop.take_finished(pool, launched.slot_B)
            loop.refill(pool, queue)
            reporter.progress(done / loop.sampler.num_steps, len(indices), "images")
        launched = following


@dataclass(frozen=True, slots=True)
class _Launched:
    """A batch whose step has been launched; its images' scheduling state is still that before the step."""

    slot_B: Tensor
    distance_B: Readback | None
    """Each image's distance; None if it decides nothing."""


@dataclass(frozen=True, slots=True)
class _Loop:
    """Constants of one call of `generate`."""

    networks: tuple[LadderNetwork, ...]
    plan: SamplingPlan
    sampler: Sampler
    device: torch.device
    noise: Noise
    calls_L: Tensor
    """Network calls of each solver step."""
    null_calls_L: Tensor
    """Network calls of each solver step that also run the null half."""
    noisy_L: Tensor
    """Per solver step, true if it takes noise."""
    phase_L: Tensor
    """Guidance phase of each solver step."""
    timed_index_L: Tensor | None
    """Ladder index of each solver step of a timed schedule."""
    observer: Observer | None

    @property
    def launches_ahead(self) -> bool:
        """True if a batch may be launched before the last one is read: where the host would wait for its distances."""
        return self.plan.schedule.is_dynamic and self.device.type == "cuda"

    @classmethod
    def of(
        cls,
        networks: Sequence[LadderNetwork],
        plan: SamplingPlan,
        device: torch.device,
        noise: Noise,
        observer: Observer | None,
    ) -> _Loop:
        sampler = build_sampler(plan.sampler, device=device, rows=plan.rows)
        steps = range(sampler.num_steps)
        calls_L = torch.tensor([sampler.calls(step) for step in steps])
        noisy_L = torch.tensor([sampler.takes_noise(step) for step in steps])
        null_calls_L, phase_L = null_calls(sampler, plan.guidance), phases(plan.guidance, sampler)
        timed_index_L = None
        if plan.schedule.is_timed:
            timed_index_L = torch.tensor([plan.schedule.index_at(step, len(steps)) for step in steps])
        return cls(
            networks=tuple(networks),
            plan=plan,
            sampler=sampler,
            device=device,
            noise=noise,
            calls_L=calls_L,
            null_calls_L=null_calls_L,
            noisy_L=noisy_L,
            phase_L=phase_L,
            timed_index_L=timed_index_L,
            observer=observer,
        )

    def refill(self, pool: Pool, queue: Iterator[int]) -> None:
        """Fill free slots with queued images."""
        free = pool.free_slots()
        fresh = list(islice(queue, len(free)))
        if not fresh:
            return
        index_B = torch.tensor(fresh)
        on_device_B = index_B.to(self.device)
        with torch.no_grad():
            latent_BCYX = self.noise(on_device_B, torch.zeros_like(on_device_B))
        enter(pool, free[: len(fresh)], index_B, self.plan.labels.of(self.plan.seed, index_B), latent_BCYX)

    @torch.no_grad()
    def launch(self, pool: Pool, batch: SlotBatch) -> _Launched:
        """Launch a solver step of one batch, padded by repeating its first image, and store its images' states."""
        slot_B = batch.slot_B
        rows = (
            None if self.observer is None else StepRows(pool.index_P[slot_B], pool.step_P[slot_B], batch.ladder_index)
        )
        if self.observer is not None and rows is not None:
            self.observer.before(rows)
        padded_B = torch.cat([slot_B, slot_B[:1].expand(self.plan.batch_size - len(slot_B))])
        step_B = pool.step_P[padded_B]
        numbers = torch.stack([padded_B, pool.index_P[padded_B], pool.label_P[padded_B], step_B])
        row_B, index_B, label_B, device_step_B = numbers.to(self.device, non_blocking=True)
        before_BCYX = pool.latent_PCYX[row_B]
        noise_BCYX = self.noise(index_B, device_step_B + 1) if bool(self.noisy_L[step_B].any()) else None
        predict = guided(
            self.networks[batch.ladder_index], label_B, self.plan.guidance if batch.is_guided else Guidance()
        )
        memory_BMCYX = pool.memory_PMCYX[row_B] if self.sampler.num_remembered else None
        after_BCYX = self.sampler.step(
            predict,
            before_BCYX,
            device_step_B,
            noise_BCYX,
            num_calls=int(self.calls_L[step_B].max()),
            memory_BMCYX=memory_BMCYX,
        )
        store_states(pool, row_B[: len(slot_B)], device_step_B[: len(slot_B)], after_BCYX[: len(slot_B)])
        if memory_BMCYX is not None:
            pool.memory_PMCYX[row_B[: len(slot_B)]] = memory_BMCYX[: len(slot_B)]
        if self.observer is not None and rows is not None:
            self.observer.after(rows, before_BCYX[: len(slot_B)], after_BCYX[: len(slot_B)])
        if not self._decides(pool, batch):
            return _Launched(slot_B, None)
        distance_B = distance(self.plan.schedule.distance, before_BCYX, after_BCYX)
        return _Launched(slot_B, Readback(distance_B[: len(slot_B)]))

    def _decides(self, pool: Pool, batch: SlotBatch) -> bool:
        """Return whether the distance of any image of a batch can move it, now or later."""
        if not self.plan.schedule.is_dynamic or batch.ladder_index == len(self.networks) - 1:
            return False
        return bool((pool.step_P[batch.slot_B] < num_deciding(self.sampler)).any())

    def advance(self, pool: Pool, launched: _Launched) -> None:
        """Update the scheduling state of a batch's images after their step."""
        if self.timed_index_L is not None:
            advance_by_progress(pool, launched.slot_B, self.timed_index_L)
        elif launched.distance_B is None:
            advance(pool, launched.slot_B, None, None, 0)
        else:
            # The iteration's only synchronisation with the device.
            distance_B = launched.distance_B.wait().double()
            advance(pool, launched.slot_B, distance_B, self.plan.schedule.rule(), num_deciding(self.sampler))

    def take_finished(self, pool: Pool, slot_B: Tensor) -> Iterator[FinishedImage]:
        """Remove the images of a batch that have finished and yield them.

        Raises:
            CheckpointError: If one of them is not finite, once the others are yielded.
        """
        ended_B = slot_B[pool.step_P[slot_B] == self.sampler.num_steps]
        if not len(ended_B):
            return
        on_device_B = ended_B.to(self.device)
        latents_BCYX, diverged_at = pool.latent_PCYX[on_device_B], pool.diverged_at_P[on_device_B].tolist()
        moved = [tuple(step for step in row if step != NO_MOVE) for row in pool.moved_at_PJ[ended_B].tolist()]
        indices = pool.index_P[ended_B].tolist()
        rows = zip(indices, pool.label_P[ended_B].tolist(), latents_BCYX, moved, strict=True)
        leave(pool, ended_B)
        for row, step in zip(rows, diverged_at, strict=True):
            if step == NO_STEP:
                yield FinishedImage(*row, self._by_ladder_index(row[3]), self._null_by_ladder_index(row[3]))
        for index, step in zip(indices, diverged_at, strict=True):
            if step != NO_STEP:
                raise diverged(index, f"at solver step {step} of {self.sampler.num_steps}")

    def _by_ladder_index(self, switch_steps: tuple[int, ...]) -> tuple[int, ...]:
        return calls_by_ladder_index(self.calls_L, switch_steps, len(self.networks))

    def _null_by_ladder_index(self, switch_steps: tuple[int, ...]) -> tuple[int, ...]:
        if not self.plan.guidance.is_on:
            return ()
        return calls_by_ladder_index(self.null_calls_L, switch_steps, len(self.networks))


def calls_by_ladder_index(calls_L: Tensor, switch_steps: tuple[int, ...], ladder_length: int) -> tuple[int, ...]:
    """Return the network calls of an image at each ladder index.

    Args:
        calls_L: Network calls of each solver step.
        switch_steps: Its moves; a move triggered by step k takes effect at step k + 1.
        ladder_length: Length of the ladder.
    """
    # Indices an image never reached start after the end.
    ends = [step + 1 for step in switch_steps] + [len(calls_L)] * (ladder_length - len(switch_steps))
    starts = [0, *ends[:-1]]
    return tuple(int(calls_L[start:end].sum()) for start, end in zip(starts, ends, strict=True))

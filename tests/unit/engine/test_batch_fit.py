from dataclasses import replace

import pytest
import torch

from medcli.engine.batch_fit import even_batch_size, fitting_batch_size
from medcli.engine.guidance_phases import Phase
from medcli.engine.networks import Guidance, ladder_networks
from medcli.engine.plan import Labels, SamplingPlan
from medcli.engine.pool import advance, empty_pool, enter, leave, num_slots, pick_batch
from medcli.schedule.spec import Schedule, static
from medcli.settings.sampler import SamplerConfig
from tests.pretend.cuda import pretend_cuda
from tests.unit.engine.tiny import PIXELS, model_of

CUDA = torch.device("cuda")


def test_batches_are_halved_until_a_call_fits_the_memory(monkeypatch):
    plan = SamplingPlan(
        sampler=SamplerConfig(),
        schedule=static(4),
        labels=Labels(classes=(1,)),
        guidance=Guidance(scale=1.5),
        batch_size=12,
    )
    (network,), sizes = ladder_networks(model_of(PIXELS), (4,)), []

    def forward(latent_BCYX, t_B, label_B):
        assert latent_BCYX.device == t_B.device == label_B.device == torch.device("cuda", 0)
        sizes.append(len(latent_BCYX))
        if len(latent_BCYX) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return latent_BCYX

    small = replace(network, forward=forward)
    with pretend_cuda():
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        fits = 6
        assert fitting_batch_size([small], plan, CUDA) == 3
        assert sizes == [24, 12, 6]
        fits = 1
        with pytest.raises(torch.OutOfMemoryError):
            fitting_batch_size([small], plan, CUDA)
    assert fitting_batch_size([small], plan, torch.device("cpu")) == 12


DYNAMIC = Schedule(kind="dynamic", counts=(4, 16, 64), rho=(0.5, 0.25), warmup_steps=1)


def plan_of(schedule: Schedule, batch_size: int = 256) -> SamplingPlan:
    return SamplingPlan(sampler=SamplerConfig(), schedule=schedule, labels=Labels(classes=(1,)), batch_size=batch_size)


def full_rows(
    num_images: int, batch_size: int, schedule: Schedule, num_steps: int = 50, last_slots: int | None = None
) -> float:
    """Run the scheduling of a process without its network; return the share of rows that were not padding.

    With `last_slots`, the pool shrinks to so many images once fewer are left than it holds.
    """
    ladder_length, rule = len(schedule.counts), schedule.rule() if schedule.is_dynamic else None
    pool = empty_pool(num_slots(ladder_length, batch_size, num_images), (1, 1, 1), ladder_length - 1, CPU)
    # Distances fall from 1; each image has a pace of its own, so that its moves come earlier or later.
    pace_N = 1 + 0.25 * torch.randn(num_images, generator=torch.Generator().manual_seed(0))
    queue, num_batches, phase_L = list(range(num_images)), 0, torch.full((num_steps,), Phase.BEFORE)
    while queue or not pool.is_empty:
        free = pool.free_slots()
        if last_slots is not None and len(queue) < len(pool.index_P):
            free = free[: max(0, last_slots - len(pool.index_P) + len(free))]
        free = free[: len(queue)]
        index_B = torch.tensor(queue[: len(free)], dtype=torch.int64)
        del queue[: len(free)]
        enter(pool, free, index_B, index_B, torch.zeros(len(free), 1, 1, 1))
        batch = pick_batch(pool, batch_size, ladder_length, phase_L)
        assert batch is not None
        num_batches += 1
        step_B, pace_B = pool.step_P[batch.slot_B], pace_N[pool.index_P[batch.slot_B]]
        distance_B = (-2.5 * pace_B * step_B / num_steps).exp().double()
        advance(pool, batch.slot_B, distance_B, rule, num_steps - 1)
        leave(pool, batch.slot_B[pool.step_P[batch.slot_B] == num_steps])
    return num_images * num_steps / (num_batches * batch_size)


CPU = torch.device("cpu")


def test_rounds_come_out_for_50000_images_on_64_gpus() -> None:
    share, plan = -(-50_000 // 64), plan_of(static(16))
    assert even_batch_size(plan, share, is_reduced=True) == 196
    assert full_rows(share, 256, plan.schedule) < 0.77
    assert full_rows(share, 196, plan.schedule) > 0.99


def test_a_dynamic_schedule_ends_with_few_empty_rows() -> None:
    share, plan = -(-50_000 // 64), plan_of(DYNAMIC)
    size = even_batch_size(plan, share, is_reduced=True)
    assert size == 61
    assert full_rows(share, 256, plan.schedule) < 0.85
    assert full_rows(share, size, plan.schedule) > 0.93


def test_a_pool_that_shrinks_at_the_end_fills_fewer_rows() -> None:
    as_it_is = full_rows(60, 8, DYNAMIC, 20)
    assert full_rows(60, 8, DYNAMIC, 20, last_slots=16) < as_it_is - 0.05
    assert full_rows(60, 8, DYNAMIC, 20, last_slots=8) < as_it_is - 0.3


def test_a_batch_is_no_larger_than_asked_for_and_no_smaller_than_a_quarter() -> None:
    plan = plan_of(DYNAMIC)
    assert even_batch_size(plan, 10_000_000, is_reduced=True) == 256
    assert even_batch_size(plan, 100, is_reduced=True) == 50
    assert even_batch_size(plan, 100, is_reduced=False) == 100
    assert even_batch_size(plan_of(static(16), 32), 100, is_reduced=False) == 25
    assert even_batch_size(plan, 1, is_reduced=True) == 1
    assert all(even_batch_size(plan_of(static(4), 7), number, is_reduced=True) <= 7 for number in range(1, 50))

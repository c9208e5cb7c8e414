import torch

from medcli.engine.guidance_phases import Phase
from medcli.engine.pool import (
    FREE,
    NO_MOVE,
    NO_STEP,
    Pool,
    advance,
    advance_by_progress,
    empty_pool,
    enter,
    leave,
    num_slots,
    pick_batch,
    store_states,
)
from medcli.schedule.dynamic import DynamicSchedule

UNGUIDED = torch.zeros(16, dtype=torch.int64)
RULE = DynamicSchedule(ladder=(1, 4, 16), rho=(0.5, 0.2), warmup_steps=1)


def pool_with(indices: list[int]) -> Pool:
    pool = empty_pool(len(indices), (1, 2, 2), 2, torch.device("cpu"))
    slots = torch.arange(len(indices))
    enter(pool, slots, slots + 100, slots % 10, torch.ones(len(indices), 1, 2, 2))
    pool.ladder_index_P[:] = torch.tensor(indices)
    return pool


def test_a_pool_of_this_size_always_fills_a_batch() -> None:
    assert num_slots(3, 8, 1000) == 22
    for spread in ([8, 7, 7], [7, 8, 7], [7, 7, 8], [22, 0, 0], [0, 0, 22]):
        indices = [entry for entry, count in enumerate(spread) for _ in range(count)]
        batch = pick_batch(pool_with(indices), 8, 3, UNGUIDED)
        assert len(batch.slot_B) == 8
        assert batch.ladder_index == spread.index(max(spread))


def test_a_pool_is_no_larger_than_the_work() -> None:
    assert num_slots(3, 8, 5) == 5
    assert num_slots(1, 8, 100) == 8
    assert num_slots(3, 8, 0) == 1


def test_when_no_entry_fills_a_batch_the_lowest_catches_up() -> None:
    batch = pick_batch(pool_with([2, 2, 2, 1, 2]), 8, 3, UNGUIDED)
    assert (batch.slot_B.tolist(), batch.ladder_index, batch.is_guided) == ([3], 1, False)


def test_low_image_numbers_go_first() -> None:
    pool = pool_with([0, 0, 0, 0])
    pool.index_P[:] = torch.tensor([9, 3, 7, 1])
    assert pick_batch(pool, 2, 3, UNGUIDED).slot_B.tolist() == [3, 1]


def test_guided_images_and_others_share_no_batch_but_both_sides_of_the_interval_do() -> None:
    pool = pool_with([0, 0, 0, 0, 0, 1])
    pool.step_P[:] = torch.tensor([0, 1, 2, 3, 0, 0])
    phase_L = torch.tensor([Phase.BEFORE, Phase.INSIDE, Phase.INSIDE, Phase.AFTER])
    batch = pick_batch(pool, 3, 3, phase_L)
    assert (batch.slot_B.tolist(), batch.ladder_index, batch.is_guided) == ([0, 3, 4], 0, False)
    leave(pool, torch.tensor([0, 4]))
    # None fills a batch: those that have not reached the interval come first, those beyond it last.
    batch = pick_batch(pool, 3, 3, phase_L)
    assert (batch.slot_B.tolist(), batch.ladder_index, batch.is_guided) == ([5], 1, False)
    leave(pool, torch.tensor([5]))
    batch = pick_batch(pool, 3, 3, phase_L)
    assert (batch.slot_B.tolist(), batch.ladder_index, batch.is_guided) == ([1, 2], 0, True)


def test_entering_resets_what_the_last_image_left() -> None:
    pool = pool_with([2, 1])
    pool.step_P[:], pool.observed_P[:], pool.warmup_sum_P[:], pool.moved_at_PJ[:] = 9, 8, 7.0, 6
    leave(pool, torch.tensor([1]))
    assert pool.free_slots().tolist() == [1]
    enter(pool, torch.tensor([1]), torch.tensor([55]), torch.tensor([3]), torch.zeros(1, 1, 2, 2))
    state = (pool.index_P, pool.label_P, pool.step_P, pool.ladder_index_P, pool.observed_P, pool.warmup_sum_P)
    assert [numbers[1].item() for numbers in state] == [55, 3, 0, 0, 0, 0.0]
    assert pool.moved_at_PJ[1].tolist() == [NO_MOVE, NO_MOVE]
    assert pool.index_P[0] == 100
    assert not pool.is_empty
    leave(pool, torch.tensor([0, 1]))
    assert pool.is_empty
    assert pool.index_P.tolist() == [FREE, FREE]


def test_the_jump_from_the_initial_noise_is_not_looked_at() -> None:
    pool = pool_with([0])
    for step, distance in enumerate([0.001, 1.0, 0.4, 0.1]):
        advance(pool, torch.tensor([0]), torch.tensor([distance], dtype=torch.float64), RULE, 10)
        assert pool.step_P.item() == step + 1
    # Step 0 ignored, step 1 is the baseline, steps 2 and 3 each trigger a move.
    assert (pool.ladder_index_P.item(), pool.moved_at_PJ[0].tolist()) == (2, [2, 3])
    assert pool.warmup_sum_P.item() == 1.0


def test_two_moves_at_once_note_the_same_step() -> None:
    pool = pool_with([0])
    for distance in (9.0, 1.0, 0.1):
        advance(pool, torch.tensor([0]), torch.tensor([distance], dtype=torch.float64), RULE, 10)
    assert pool.moved_at_PJ[0].tolist() == [2, 2]


def test_steps_after_the_deciding_ones_change_nothing() -> None:
    pool = pool_with([0])
    for distance in (9.0, 1.0, 0.1):
        advance(pool, torch.tensor([0]), torch.tensor([distance], dtype=torch.float64), RULE, 2)
    assert (pool.ladder_index_P.item(), pool.step_P.item()) == (0, 3)


def test_a_slot_keeps_nothing_of_its_last_image() -> None:
    pool, slot = empty_pool(2, (1, 2, 2), 1, torch.device("cpu"), num_remembered=2), torch.tensor([1])
    enter(pool, slot, slot, slot, torch.ones(1, 1, 2, 2))
    pool.memory_PMCYX[1] = torch.nan
    store_states(pool, slot, torch.tensor([3]), torch.full((1, 1, 2, 2), torch.inf))
    assert pool.diverged_at_P.tolist() == [NO_STEP, 3]
    enter(pool, slot, slot, slot, torch.ones(1, 1, 2, 2))
    assert not pool.memory_PMCYX.any()
    assert pool.diverged_at_P.tolist() == [NO_STEP, NO_STEP]


def test_the_first_step_that_is_not_finite_is_kept() -> None:
    pool, slot_B = empty_pool(3, (1, 1, 1), 1, torch.device("cpu")), torch.tensor([0, 2])
    for step, values in enumerate([(1.0, 1.0), (1.0, torch.nan), (-torch.inf, torch.nan), (1.0, 1.0)]):
        store_states(pool, slot_B, torch.tensor([step, step + 10]), torch.tensor(values).view(2, 1, 1, 1))
    assert pool.diverged_at_P.tolist() == [2, NO_STEP, 11]


def test_a_batch_beside_a_launched_one_is_a_full_one_of_others() -> None:
    pool = pool_with([0, 0, 0, 0, 1])
    first = pick_batch(pool, 2, 3, UNGUIDED)
    assert first is not None
    second = pick_batch(pool, 2, 3, UNGUIDED, first.slot_B)
    assert second is not None
    assert (first.slot_B.tolist(), second.slot_B.tolist()) == ([0, 1], [2, 3])
    assert pick_batch(pool, 2, 3, UNGUIDED, torch.tensor([0, 1, 2])) is None
    assert pick_batch(pool, 2, 3, UNGUIDED, torch.tensor([0, 1, 2, 3])) is None
    assert num_slots(3, 8, 1000, 8) == 30


def test_by_progress_the_next_step_has_the_index_of_its_own_place() -> None:
    pool, index_L = pool_with([0, 0, 0]), torch.tensor([0, 0, 1, 2])
    pool.step_P[:] = torch.tensor([0, 1, 3])
    pool.ladder_index_P[:] = torch.tensor([0, 0, 2])
    advance_by_progress(pool, torch.arange(3), index_L)
    assert pool.step_P.tolist() == [1, 2, 4]
    assert pool.ladder_index_P.tolist() == [0, 1, 2]
    assert pool.moved_at_PJ[:2].tolist() == [[NO_MOVE, NO_MOVE], [1, NO_MOVE]]

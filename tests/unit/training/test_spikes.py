import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from medcli.data.training_set import ArraySet
from medcli.errors import CheckpointError, ConfigError, DataError, EnvironmentProblem
from medcli.runtime.reporting import Silent
from medcli.training.batches import CPU, Batches
from medcli.training.distributed import Distributed
from medcli.training.history import BadStep, Row
from medcli.training.spikes import MIN_LOSSES, find_origin, judge, stop_if_repeated
from medcli.training.train import train
from medcli.training.trainer import Trainer
from tests.unit.training.runs import (
    DATA,
    MODEL,
    RUN,
    Spoilt,
    Told,
    fresh,
    last_state,
    run,
    same_average,
    same_tensors,
    with_nan,
)

USUAL = [1.0, 1.1, 0.9, 1.2, 0.8] * 10


def judged(loss, recent=USUAL, grad_norm=1.0, **options):
    return judge(Row(7, (0,), loss, grad_norm), recent, 3.0, **options)


def test_a_loss_far_above_the_recent_ones_is_a_spike():
    assert judged(2.9) is None
    assert judged(3.1).what == "the loss was 3.1, 3.1 times the recent median"
    assert judged(3.1).step == 7


def test_losses_that_vary_widely_make_a_spike_harder_to_be():
    wide = [1.0] * 45 + [4.0] * 5
    assert judged(9.0, wide) is None
    assert judged(11.0, wide) is not None


def test_too_few_losses_make_no_spike():
    assert judged(100.0, USUAL[: MIN_LOSSES - 1]) is None
    assert judged(100.0, USUAL[:MIN_LOSSES]) is not None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_trouble_from_the_first_step(loss):
    assert judged(loss, []).what == f"the loss was {loss}"


def test_a_gradient_that_is_not_finite_is_trouble_unless_the_format_overflows_by_nature():
    assert judged(1.0, [], grad_norm=math.inf).what == "the norm of the gradient was inf"
    assert judged(1.0, [], grad_norm=math.inf, may_overflow=True) is None
    assert judged(math.nan, [], grad_norm=math.inf, may_overflow=True) is not None


def test_trouble_within_a_thousand_steps_is_counted_together():
    far = [BadStep(step, "the loss was nan") for step in (10, 1010, 2010, 3010)]
    stop_if_repeated(far, 1)
    stop_if_repeated([*far, BadStep(3020, "the loss was nan")], 2)
    with pytest.raises(ConfigError, match=r"\(3010, 3020, 3030\): the loss was nan") as caught:
        stop_if_repeated([*far, BadStep(3030, "the loss was nan"), BadStep(3020, "the loss was nan")], 2)
    assert "--lr" in caught.value.hint


def test_an_origin_is_sought_under_a_loss_scale_without_changing_the_step_that_follows():
    data = Batches.of(DATA, RUN, MODEL)
    found, losses = [], []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        trainer = Trainer(fresh(), None, RUN, Distributed(CPU, has_idle_parameters=True))
        trainer.scaler = scaler or trainer.scaler
        trainer.train_step(data.draw(0), 1)
        found.append(find_origin(trainer, data.draw(1), torch.arange(RUN.global_batch_size)))
        losses.append(trainer.train_step(data.draw(1), 2))
    assert found[0] == found[1]
    assert found[0].startswith("the largest gradient is that of ")
    assert torch.allclose(losses[0].grad_norm, losses[1].grad_norm, rtol=1e-4)
    assert torch.equal(losses[0].losses, losses[1].losses)


@pytest.mark.parametrize("step", [1, 5, 9, 10])
def test_a_batch_with_nan_is_undone_named_and_left_out(tmp_path, step):
    told = Told()
    spoilt = run(tmp_path / "a", Spoilt([step], with_nan), told=told, steps=10, log_every=4)
    spared = run(tmp_path / "b", steps=10, log_every=4, skip_steps=(step,))
    assert same_average(spoilt, spared)
    assert same_tensors(last_state(tmp_path / "a"), last_state(tmp_path / "b"))
    assert (spoilt.steps, spoilt.rollbacks) == (10, 1)
    (trouble,) = spoilt.skipped
    assert (trouble.step, trouble.what) == (step, "the loss was nan")
    picks = Batches.of(DATA, RUN, MODEL)
    image = int(picks.order.picks(picks.positions(step - 1))[5])
    assert trouble.tensor == f"image {image} is not finite in the data"
    back = max(saved for saved in (0, 3, 6, 9) if saved < step)
    assert told.notes == [
        f"step {step}: the loss was nan; rolling back to step {back} to skip it",
        f"step {step} is skipped: the loss was nan; image {image} is not finite in the data",
    ]


def test_there_is_no_way_back_when_the_states_were_deleted(tmp_path):
    def delete(step, weights):
        for state in tmp_path.glob("state-*.safetensors"):
            state.unlink()

    with pytest.raises(EnvironmentProblem, match="checkpoints were removed"):
        run(tmp_path, Spoilt([5], with_nan), on={"on_save": delete})


def test_the_log_is_that_of_a_run_that_left_the_batch_out(tmp_path):
    def lines(folder):
        lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "images_per_sec"} for line in lines]

    run(tmp_path / "a", Spoilt([5], with_nan), steps=10, log_every=1, save_every=4)
    run(tmp_path / "b", steps=10, log_every=1, save_every=4, skip_steps=(5,))
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert [line["skipped"] for line in lines(tmp_path / "a")] == [0] * 4 + [1] * 6


def test_a_spike_is_undone_named_and_left_out(tmp_path):
    settings = {"steps": 50, "log_every": 10, "save_every": 20, "counts": (4,)}
    spoilt = run(tmp_path / "a", Spoilt([44], lambda data_BCYX: 30 * data_BCYX), **settings)
    spared = run(tmp_path / "b", **settings, skip_steps=(44,))
    assert same_average(spoilt, spared)
    (trouble,) = spoilt.skipped
    assert trouble.step == 44
    assert "times the recent median" in trouble.what
    assert trouble.tensor.startswith("the largest gradient is that of ")


def test_a_resumed_run_knows_what_it_skipped(tmp_path):
    settings = {"log_every": 2, "save_every": 2, "keep_last": 9}
    straight = run(tmp_path / "a", Spoilt([5], with_nan), steps=10, **settings)
    run(tmp_path / "b", Spoilt([5], with_nan), steps=7, **settings)
    told = Told()
    resumed = run(tmp_path / "b", Spoilt([5], with_nan), told=told, steps=10, **settings)
    assert same_average(straight, resumed)
    assert resumed.skipped == straight.skipped
    assert last_state(tmp_path / "a").read_bytes() == last_state(tmp_path / "b").read_bytes()
    assert len(told.notes) == 1  # that it goes on: the trouble is not met again


def test_two_bad_batches_between_two_looks_are_both_left_out(tmp_path):
    spoilt = run(tmp_path / "a", Spoilt([4, 5], with_nan), steps=10)
    assert [trouble.step for trouble in spoilt.skipped] == [4, 5]
    assert all(trouble.tensor for trouble in spoilt.skipped)
    assert same_average(spoilt, run(tmp_path / "b", steps=10, skip_steps=(4, 5)))


def test_trouble_again_and_again_ends_the_run_and_leaves_a_good_state(tmp_path):
    with pytest.raises(DataError, match=r"4, 5, 6, 7\): the loss was nan; image") as caught:
        run(tmp_path, Spoilt(range(4, 10), with_nan), steps=10)
    assert "check the data" in caught.value.hint
    assert "--lr" in caught.value.hint
    # Steps 4 to 6 had been left out by then, so the weights after step 6 are those after step 3.
    state = load_file(last_state(tmp_path))
    assert last_state(tmp_path).name == "state-00000006.safetensors"
    assert all(value.isfinite().all() for value in state.values())


def test_a_run_that_skips_every_step_ends_with_an_error_and_so_does_its_continuation(tmp_path):
    for _ in range(2):
        with pytest.raises(DataError, match=r"all 3 steps were skipped, nothing was trained: the loss was nan; image"):
            run(tmp_path, Spoilt(range(1, 4), with_nan), steps=3)
    assert run(tmp_path, Spoilt(range(1, 4), with_nan), steps=4).steps == 4
    with pytest.raises(ConfigError, match="all 2 steps were skipped, nothing was trained") as caught:
        run(tmp_path / "b", steps=2, skip_steps=(1, 2))
    assert caught.value.hint == "skip fewer steps"


def test_a_learning_rate_that_ruins_the_weights_ends_the_run(tmp_path):
    with pytest.raises((ConfigError, CheckpointError), match="bad steps"):
        run(tmp_path, lr=1e18, steps=20)


def test_weights_that_are_not_finite_are_named_and_no_batch_is_blamed(tmp_path):
    model = fresh()
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"model\.blocks\.1\.mlp\.fc1\.weight was not finite before the step"):
        train(model, DATA, RUN, tmp_path, Silent())


def test_a_gradient_that_is_not_finite_names_its_parameter(tmp_path):
    model = fresh()
    seen = []

    def spoil(gradient):
        seen.append(None)
        return gradient * torch.nan if len(seen) == 5 or len(seen) == 7 else gradient

    model.t_embedder.mlp[0].weight.register_hook(spoil)
    result = train(model, DATA, replace(RUN, save_every=4), tmp_path, Silent())
    (trouble,) = result.skipped
    assert trouble.what == "the norm of the gradient was nan"
    assert trouble.tensor == "the gradient of t_embedder.mlp.0.weight is the first value that is not finite"


def test_each_mediator_count_is_compared_with_its_own_losses(tmp_path):
    # Freshly converted, few mediators lose far more than many: their steps must not count as spikes.
    rows = {(0,): [1.0] * 40, (4,): [10.0] * 40}
    assert judge(Row(1, (4,), 11.0, 1.0), rows[4,], 3.0) is None
    assert judge(Row(1, (4,), 11.0, 1.0), rows[0,], 3.0) is not None


def test_a_set_in_memory_that_is_all_nan_is_the_datas_fault(tmp_path):
    with pytest.raises(DataError, match="not finite in the data"):
        run(tmp_path, ArraySet("grains", DATA.data_NCYX * torch.nan, DATA.labels_N), steps=20)

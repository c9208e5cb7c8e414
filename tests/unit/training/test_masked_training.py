"""Masked training: two passes a step, both losses, and a run that goes on bit for bit."""

import json
from dataclasses import replace

import pytest
import torch

from medcli.errors import ConfigError
from medcli.runtime.reporting import Silent
from medcli.training.batches import Batches
from medcli.training.masking import Masking
from medcli.training.train import train
from tests.unit.training.runs import DATA, RUN, fresh, last_state, same_average, same_tensors
from tests.unit.training.small_models import EDT_MODEL, MDT_MODEL, shaken

DOWN, INPUT = Masking(), Masking(where="input")
WAYS = [(EDT_MODEL, DOWN), (EDT_MODEL, INPUT), (MDT_MODEL, INPUT)]
DENSE = replace(RUN, counts=(0,))


def masked_run(folder, model, masking, **settings):
    return train(fresh(model), DATA, replace(DENSE, masking=masking, **settings), folder, Silent())


@pytest.mark.parametrize(("model", "masking"), [*WAYS, (EDT_MODEL, None), (MDT_MODEL, None)])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, model, masking):
    straight = masked_run(tmp_path / "straight", model, masking)
    masked_run(tmp_path / "resumed", model, masking, steps=4)
    resumed = masked_run(tmp_path / "resumed", model, masking)
    assert same_average(straight, resumed)
    assert same_tensors(last_state(tmp_path / "straight"), last_state(tmp_path / "resumed"))


@pytest.mark.parametrize(("model", "masking"), WAYS)
def test_the_masked_pass_has_noise_and_labels_of_its_own_and_the_same_images_and_times(model, masking):
    batch = Batches.of(DATA, replace(DENSE, masking=masking, global_batch_size=32), model).draw(2)
    plain = Batches.of(DATA, replace(DENSE, global_batch_size=32), model).draw(2)
    masked = batch.masked
    assert plain.masked is None
    assert all(torch.equal(a, b) for a, b in zip(batch[:4], plain[:4], strict=True))
    assert torch.equal(masked.data_BCYX, batch.data_BCYX)
    assert torch.equal(masked.t_B, batch.t_B)
    assert not torch.equal(masked.noise_BCYX, batch.noise_BCYX)
    assert not torch.equal(masked.label_B, batch.label_B)
    assert masked.masks
    assert not batch.masks


@pytest.mark.parametrize(("model", "masking"), WAYS)
def test_pieces_of_both_passes_give_the_gradient_of_the_whole(tmp_path, model, masking):
    whole, pieces = (
        train(
            shaken(model).requires_grad_(True),
            DATA,
            replace(DENSE, masking=masking, steps=1, micro_batch_size=size),
            tmp_path / str(size),
            Silent(),
        )
        for size in (None, 3)
    )
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-6)


def test_both_losses_are_logged_and_add_up(tmp_path):
    masked_run(tmp_path, EDT_MODEL, DOWN)
    for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()):
        assert line["loss"] == pytest.approx(line["full_loss"] + line["masked_loss"], abs=2e-6)
        assert line["masked_loss"] == pytest.approx(line["full_loss"], rel=0.5)  # of the same size at the start
    masked_run(tmp_path / "plain", EDT_MODEL, None)
    assert "masked_loss" not in (tmp_path / "plain" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(("model", "masking"), WAYS)
def test_masks_reach_the_loss_and_the_full_pass_does_not_see_them(model, masking, tmp_path):
    settings = {"steps": 1, "log_every": 1, "ema": 0.0}
    logged = []
    for own in (masking, replace(masking, ratios=((0.75, 0.75),))):
        folder = tmp_path / str(own.ratios)
        train(shaken(model).requires_grad_(True), DATA, replace(DENSE, masking=own, **settings), folder, Silent())
        logged.append(json.loads((folder / "metrics.jsonl").read_text()))
    assert logged[0]["full_loss"] == logged[1]["full_loss"]
    assert logged[0]["masked_loss"] != logged[1]["masked_loss"]


def test_another_masking_is_another_run(tmp_path):
    masked_run(tmp_path, EDT_MODEL, DOWN, steps=2)
    with pytest.raises(Exception, match="with masking where down, not input"):
        masked_run(tmp_path, EDT_MODEL, INPUT)


def test_a_network_without_down_samplers_is_refused_before_a_step(tmp_path):
    with pytest.raises(ConfigError, match="no down-samplers"):
        masked_run(tmp_path, MDT_MODEL, DOWN)


def test_adan_and_a_falling_learning_rate_go_on_bit_for_bit(tmp_path):
    settings = {"optimizer": "adan", "lr_decay": (1e-4, 5)}
    straight = masked_run(tmp_path / "straight", EDT_MODEL, DOWN, **settings)
    masked_run(tmp_path / "resumed", EDT_MODEL, DOWN, steps=4, **settings)
    resumed = masked_run(tmp_path / "resumed", EDT_MODEL, DOWN, **settings)
    assert same_average(straight, resumed)
    assert not same_average(straight, masked_run(tmp_path / "adamw", EDT_MODEL, DOWN, lr_decay=(1e-4, 5)))
    assert not same_average(straight, masked_run(tmp_path / "even", EDT_MODEL, DOWN, optimizer="adan"))


def test_the_learning_rate_falls_evenly_and_then_stays():
    config = replace(DENSE, lr=1e-2, lr_decay=(2e-3, 4))
    assert [config.lr_at(done) for done in (0, 2, 4, 9)] == pytest.approx([1e-2, 6e-3, 2e-3, 2e-3])
    assert replace(config, lr_decay="none").lr_at(9) == 1e-2
    for bad in ((2e-2, 4), (0.0, 4), (1e-3, 0)):
        with pytest.raises(ConfigError, match="--lr-decay"):
            replace(config, lr_decay=bad)

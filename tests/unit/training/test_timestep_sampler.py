"""Timesteps drawn by their latest losses: what is drawn, what is saved, and who may ask for it."""

from dataclasses import replace

import pytest
import torch

from medcli.diffusion.gaussian import NUM_TRAIN_TIMESTEPS
from medcli.errors import ConfigError
from medcli.runtime.reporting import Silent
from medcli.training import trainer as learner_module
from medcli.training.batches import CPU, Batches
from medcli.training.distributed import Distributed
from medcli.training.masking import Masking
from medcli.training.timestep_sampler import HISTORY_PER_TERM, LossSecondMomentResampler
from medcli.training.train import train
from medcli.training.trainer import Trainer
from tests.unit.training.runs import DATA, RUN, fresh, last_state, same_average, same_tensors
from tests.unit.training.small_models import EDT_MODEL, LADDER_MODEL

BY_LOSS = replace(RUN, counts=(0,), timesteps="loss")
LARGE = 900
"""From this timestep on, losses are a hundred times those below; at even ones half as much again."""


def filled(num_timesteps: int) -> LossSecondMomentResampler:
    """Draws past their first ten losses of each timestep, as they are late in a run."""
    draws = LossSecondMomentResampler(num_timesteps)
    draws.losses_TL[:] = 0.1
    draws.losses_TL[LARGE:] = 10.0
    draws.losses_TL[::2] *= 1.5  # so that neighbours' weights differ
    draws.counts_T[:] = HISTORY_PER_TERM
    return draws


def learner_of(config=BY_LOSS) -> Trainer:
    return Trainer(fresh(EDT_MODEL).requires_grad_(True), None, config, Distributed(CPU, has_idle_parameters=False))


def by_loss(folder, **settings):
    return train(fresh(EDT_MODEL), DATA, replace(BY_LOSS, **settings), folder, Silent())


@pytest.mark.parametrize("masking", [None, Masking()])
@pytest.mark.parametrize("size", [None, 3])
def test_a_step_is_noted_and_learned_at_its_times_with_its_weights(masking, size):
    trainer = learner_of(replace(BY_LOSS, masking=masking, micro_batch_size=size))
    trainer.timestep_sampler = filled(NUM_TRAIN_TIMESTEPS)
    batches = Batches.of(DATA, trainer.config, EDT_MODEL)
    batch = trainer.with_timesteps(batches.draw(0), batches.time_uniforms(0))
    t_B, weight_B = trainer.timestep_sampler.sample(batches.time_uniforms(0))
    assert torch.equal(batch.t_B, t_B)
    passes = [batch] if masking is None else [batch, batch.masked]
    assert all(torch.equal(each.t_B, t_B) for each in passes)
    objective = learner_module.LadderObjective(trainer.model, trainer.config.loss)
    with torch.no_grad():
        rows = [objective(*each[:6]) for each in passes]
    measured = trainer.train_step(batch)
    for loss, loss_B in zip(measured.losses, rows, strict=True):
        torch.testing.assert_close(loss, (loss_B * weight_B).mean().float(), rtol=1e-5, atol=0)
    expected = filled(NUM_TRAIN_TIMESTEPS)
    expected.update(t_B, sum(rows))
    torch.testing.assert_close(trainer.timestep_sampler.losses_TL, expected.losses_TL, rtol=1e-5, atol=0)
    assert torch.equal(trainer.timestep_sampler.counts_T, expected.counts_T)


def test_times_follow_the_losses_that_were_noted():
    trainer = learner_of(replace(BY_LOSS, global_batch_size=512))
    batches = Batches.of(DATA, trainer.config, EDT_MODEL)
    even = trainer.with_timesteps(batches.draw(0), batches.time_uniforms(0))
    assert torch.equal(even.t_B, batches.draw(0).t_B)  # too few losses are known
    trainer.timestep_sampler = filled(NUM_TRAIN_TIMESTEPS)
    drawn = trainer.with_timesteps(batches.draw(0), batches.time_uniforms(0))
    # Their share is 100 * 10 / (100 * 10 + 900 * 0.1), but for a thousandth.
    assert (drawn.t_B >= LARGE).double().mean() == pytest.approx(1000 / 1090, abs=0.04)
    assert (even.t_B >= LARGE).double().mean() == pytest.approx(0.1, abs=0.04)
    assert drawn.weight_B.mean() == pytest.approx(1, abs=0.4)  # which keeps the mean of the loss


def test_weights_keep_the_mean_over_evenly_drawn_times_exactly():
    draws, num_draws = filled(NUM_TRAIN_TIMESTEPS), 400_000
    value_T = torch.arange(NUM_TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    t_B, weight_B = draws.sample((torch.arange(num_draws) + 0.5) / num_draws)
    assert float((value_T[t_B] * weight_B).mean()) == pytest.approx(float(value_T.mean()), rel=2e-3)
    assert float(weight_B.mean()) == pytest.approx(1, rel=2e-3)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(learner_module, "LossSecondMomentResampler", filled)
    straight = by_loss(tmp_path / "straight")
    by_loss(tmp_path / "resumed", steps=4)
    monkeypatch.undo()  # the rest of the run knows the losses by its state alone
    resumed = by_loss(tmp_path / "resumed")
    assert same_average(straight, resumed)
    assert same_tensors(last_state(tmp_path / "straight"), last_state(tmp_path / "resumed"))
    assert not same_average(straight, by_loss(tmp_path / "even", timesteps="even"))


def test_all_processes_note_the_losses_of_all(monkeypatch):
    trainer = learner_of()
    batches = Batches.of(DATA, BY_LOSS, EDT_MODEL, rows=range(4))
    others = [(7, 1.5), (7, 2.5)]
    monkeypatch.setattr(trainer.distributed, "gather", lambda values: [*values, *others])
    batch = trainer.with_timesteps(batches.draw(0), batches.time_uniforms(0))
    trainer.train_step(batch)
    assert trainer.timestep_sampler.counts_T.sum() == len(batch) + len(others)
    assert trainer.timestep_sampler.losses_TL[7].sort().values[-2:].tolist() == [1.5, 2.5]


def test_another_way_to_draw_is_another_run_and_the_old_way_has_no_name(tmp_path):
    assert replace(BY_LOSS, timesteps="even").fixed().items() < BY_LOSS.fixed().items()
    by_loss(tmp_path, steps=2)
    with pytest.raises(ConfigError, match="with way to draw timesteps loss, not even"):
        by_loss(tmp_path, timesteps="even")


def test_models_without_integer_timesteps_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="SiT"):
        train(fresh(LADDER_MODEL), DATA, BY_LOSS, tmp_path, Silent())
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="even, loss"):
        replace(BY_LOSS, timesteps="odd")

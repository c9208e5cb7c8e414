import dataclasses
import json

import pytest
import torch

from medcli.config import ModelConfig
from medcli.errors import CheckpointError, ConfigError, MedcliError
from medcli.model.backbone import DiffusionTransformer
from medcli.model.init import initialise
from medcli.runtime.reporting import Silent
from medcli.training.loop import LatentSet, TrainConfig, draw_batch, train
from medcli.training.objective import LadderObjective, shares

MODEL = ModelConfig(
    family="sit",
    hidden_size=16,
    depth=2,
    num_heads=2,
    patch_size=1,
    latent_size=4,
    in_channels=1,
    num_classes=3,
    mediators=(1, 4),
    mediator_layers=(0, 1),
    autoencoder=None,
    latent_downsample=1,
)
RUN = TrainConfig(
    steps=6, global_batch_size=8, lr=1e-2, ema=0.9, entries=(0, 1, 4), save_every=3, log_every=2, label_dropout=0.5
)
LABELS = torch.arange(11) % 3
GRAIN = 0.1 * torch.randn(11, 1, 4, 4, generator=torch.Generator().manual_seed(0))
DATA = LatentSet(GRAIN + (LABELS - 1.0)[:, None, None, None], LABELS)


def fresh(config: ModelConfig = MODEL) -> DiffusionTransformer:
    model = DiffusionTransformer(config)
    initialise(model, 0)
    return model


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    straight = train(fresh(), DATA, RUN, tmp_path / "a", Silent())
    train(fresh(), DATA, dataclasses.replace(RUN, steps=3), tmp_path / "b", Silent())
    resumed = train(fresh(), DATA, RUN, tmp_path / "b", Silent())
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    assert (tmp_path / "a/state.safetensors").read_bytes() == (tmp_path / "b/state.safetensors").read_bytes()


@pytest.mark.parametrize("family", ["sit", "dit"])
def test_training_lowers_the_loss(tmp_path, family):
    run = dataclasses.replace(RUN, steps=60, log_every=20, lr=1e-2, label_dropout=0.0)
    train(fresh(dataclasses.replace(MODEL, family=family)), DATA, run, tmp_path, Silent())
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_with_other_settings_is_not_continued(tmp_path):
    train(fresh(), DATA, dataclasses.replace(RUN, steps=3), tmp_path, Silent())
    with pytest.raises(CheckpointError, match="another lr"):
        train(fresh(), DATA, dataclasses.replace(RUN, lr=1e-3), tmp_path, Silent())


def test_a_damaged_state_is_named(tmp_path):
    (tmp_path / "state.safetensors").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match="state.safetensors"):
        train(fresh(), DATA, RUN, tmp_path, Silent())


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    broken = LatentSet(DATA.latents_NCYX * torch.nan, DATA.labels_N)
    with pytest.raises(MedcliError, match="loss became nan before step 2"):
        train(fresh(), broken, RUN, tmp_path, Silent())
    assert not (tmp_path / "state.safetensors").exists()


def test_a_batch_is_a_function_of_seed_and_step_and_rows_are_its_parts():
    whole = draw_batch(DATA, RUN, MODEL, 4)
    for rows in (slice(0, 3), slice(3, 8)):
        part = draw_batch(DATA, RUN, MODEL, 4, rows)
        assert all(torch.equal(a[rows], b) for a, b in zip(whole, part, strict=True))
    other = draw_batch(DATA, dataclasses.replace(RUN, seed=1), MODEL, 4)
    assert not torch.equal(whole.noise_BCYX, other.noise_BCYX)


def test_an_epoch_visits_every_image_once():
    run = dataclasses.replace(RUN, label_dropout=0.0)
    drawn = torch.cat([draw_batch(DATA, run, MODEL, step).data_BCYX for step in range(11)])  # 88 draws: 8 epochs of 11
    for epoch in drawn.split(11):
        assert len(epoch.flatten(1).unique(dim=0)) == 11
    assert not torch.equal(drawn[:11], drawn[11:22])


def test_labels_are_dropped_to_the_null_class_at_the_stated_rate():
    labels = torch.cat([draw_batch(DATA, RUN, MODEL, step).label_B for step in range(100)])
    assert (labels == MODEL.null_class).float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_times_are_native_to_the_family():
    sit, dit = (draw_batch(DATA, RUN, dataclasses.replace(MODEL, family=family), 0).t_B for family in ("sit", "dit"))
    assert sit.dtype == torch.float32
    assert dit.dtype == torch.int64
    torch.testing.assert_close(dit, (sit.double() * 1000).long(), atol=1, rtol=0)


def test_shares_cover_the_batch_once():
    assert shares(8, (0, 1, 4)) == [(0, slice(0, 2)), (1, slice(2, 5)), (4, slice(5, 8))]


def test_the_objective_averages_over_images_whatever_entry_they_go_through():
    model = fresh()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    batch = draw_batch(DATA, RUN, MODEL, 0)
    mixed = LadderObjective(model, (0, 4))(*batch)
    alone = [LadderObjective(model, (entry,))(*(part[rows] for part in batch)) for entry, rows in shares(8, (0, 4))]
    torch.testing.assert_close(mixed, torch.stack(alone).mean())


def test_a_batch_too_small_for_the_ladder_is_refused():
    with pytest.raises(ConfigError, match="cannot give each"):
        TrainConfig(steps=1, global_batch_size=2, entries=(0, 1, 4))

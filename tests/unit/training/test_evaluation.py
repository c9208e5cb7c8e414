from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from medcli.data.training_set import ArraySet
from medcli.model.backbone import DiffusionTransformer
from medcli.training.evaluation import FIRST_POSITION, evaluate
from medcli.training.objective import LossConfig
from tests.unit.training.small_models import LADDER_MODEL, shaken

DATA = ArraySet(
    name="toy",
    data_NCYX=torch.randn(11, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
    labels_N=torch.arange(11) % 3,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor, int]]:
    """What the network is asked: states, times, labels and counts."""
    calls: list[tuple[Tensor, Tensor, Tensor, int]] = []
    forward = DiffusionTransformer.forward

    def noted(self: DiffusionTransformer, x: Tensor, t: Tensor, label: Tensor, count: int) -> Tensor:
        calls.append((x, t, label, count))
        return forward(self, x, t, label, count)

    monkeypatch.setattr(DiffusionTransformer, "forward", noted)
    return calls


def test_every_count_and_every_model_meets_the_same_draws(asked: list[tuple[Tensor, Tensor, Tensor, int]]) -> None:
    evaluate(shaken(), DATA, (0, 4), seed=0, num_images=6, batch_size=6)
    evaluate(
        shaken(dataclasses.replace(LADDER_MODEL, mediators=(), mediator_layers=()), 5), DATA, (0,), seed=0, num_images=6
    )
    assert [count for *_, count in asked] == [0, 4, 0]
    for x, t, label, _ in asked[1:]:
        assert torch.equal(x, asked[0][0])
        assert torch.equal(t, asked[0][1])
        assert torch.equal(label, asked[0][2])


def test_the_loss_is_the_mean_over_the_draws_whatever_the_batch(
    asked: list[tuple[Tensor, Tensor, Tensor, int]],
) -> None:
    model = shaken()
    whole = evaluate(model, DATA, (4, 1), seed=0, num_images=8, batch_size=8)
    (x, t, label, _), _ = asked
    pieces = evaluate(model, DATA, (4, 1), seed=0, num_images=8, batch_size=3)
    assert list(whole) == [4, 1]
    assert whole == pytest.approx(pieces, rel=1e-5)
    # x = t data + (1 - t) noise, velocity = data - noise
    data = DATA.data_NCYX[torch.arange(8) * 11 // 8]
    noise = (x - t.view(-1, 1, 1, 1) * data) / (1 - t.view(-1, 1, 1, 1))
    with torch.no_grad():
        expected = (model(x, t, label, 4) - (data - noise)).square().mean()
    assert whole[4] == pytest.approx(expected.item(), rel=1e-3)


def test_images_are_spread_and_times_are_even_and_unrelated(asked: list[tuple[Tensor, Tensor, Tensor, int]]) -> None:
    picked: list[Tensor] = []

    class Noted(ArraySet):
        def read(self, pick_B: Tensor, position_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
            picked.append(pick_B)
            assert position_B.min() >= FIRST_POSITION
            return ArraySet.read(self, pick_B, position_B, seed)

    evaluate(shaken(), Noted(DATA.name, DATA.data_NCYX, DATA.labels_N), (0,), seed=0, num_images=200, batch_size=200)
    assert picked[0].bincount().max() - picked[0].bincount().min() <= 1
    _, t, label, _ = asked[0]
    assert torch.equal((t.sort().values * 200).long(), torch.arange(200))
    assert torch.corrcoef(torch.stack([t, picked[0].float()]))[0, 1].abs() < 0.25
    assert label.max() < LADDER_MODEL.null_class


def test_a_seed_draws_anew() -> None:
    model = shaken()
    losses = {evaluate(model, DATA, (4,), seed=seed, num_images=8)[4] for seed in (0, 0, 1)}
    assert len(losses) == 2


def test_a_share_of_distillation_is_left_out_and_the_path_is_not() -> None:
    model = shaken()
    plain = evaluate(model, DATA, (4,), seed=0, num_images=8)
    assert evaluate(model, DATA, (4,), seed=0, num_images=8, loss=LossConfig(distill=0.7)) == plain
    assert evaluate(model, DATA, (4,), seed=0, num_images=8, loss=LossConfig(path="gvp")) != plain


def test_it_leaves_no_gradients_and_changes_nothing() -> None:
    model = shaken()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, DATA, (0, 1), seed=0, num_images=4)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_dit_model_is_evaluated_on_its_integer_times(asked: list[tuple[Tensor, Tensor, Tensor, int]]) -> None:
    (loss,) = evaluate(
        shaken(dataclasses.replace(LADDER_MODEL, family="dit")), DATA, (4,), seed=0, num_images=50, batch_size=50
    ).values()
    times = asked[0][1]
    assert torch.equal(times.sort().values // 20, torch.arange(50))
    assert loss > 0

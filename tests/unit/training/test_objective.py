from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.diffusion.gaussian import gaussian_tables, q_sample, respace
from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer
from medcli.training.objective import LadderObjective, LossConfig, native_time, runs
from tests.unit.training.small_models import LADDER_MODEL, shaken

DIT = dataclasses.replace(LADDER_MODEL, family="dit")
DENSE = {"mediators": (), "mediator_layers": ()}


def batch(config: ModelConfig, size: int = 6) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    data, noise = torch.randn(2, size, 1, 4, 4, generator=generator)
    unit = torch.rand(size, generator=generator).double()
    return data, noise, native_time(config.family, unit), torch.arange(size) % 4


def gradients(objective: LadderObjective, inputs: tuple[Tensor, ...], counts: tuple[int, ...]) -> list[Tensor | None]:
    trained = [p for p in objective.model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(objective(*inputs, counts).mean(), trained, allow_unused=True))


def test_runs_are_neighbouring_rows_of_one_count() -> None:
    assert list(runs((4, 4, 0, 4))) == [(4, slice(0, 2)), (0, slice(2, 3)), (4, slice(3, 4))]
    assert list(runs(())) == []


@pytest.mark.parametrize("config", [LADDER_MODEL, DIT], ids=["sit", "dit"])
def test_each_row_has_its_loss_at_its_own_count(config: ModelConfig) -> None:
    model, inputs, counts = shaken(config), batch(config), (0, 4, 4, 1, 1, 0)
    alone = [
        LadderObjective(model)(*(part[row : row + 1] for part in inputs), (count,)) for row, count in enumerate(counts)
    ]
    assert len({round(loss.item(), 6) for loss in alone}) == len(alone)
    torch.testing.assert_close(LadderObjective(model)(*inputs, counts), torch.cat(alone))


def test_each_run_goes_through_the_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    forward = DiffusionTransformer.forward

    def counted(self: DiffusionTransformer, x: Tensor, t: Tensor, label: Tensor, count: int) -> Tensor:
        calls.append((len(x), count))
        return forward(self, x, t, label, count)

    monkeypatch.setattr(DiffusionTransformer, "forward", counted)
    LadderObjective(shaken())(*batch(LADDER_MODEL), (1, 1, 1, 1, 4, 4))
    assert calls == [(4, 1), (2, 4)]


def test_a_count_for_each_row_is_required() -> None:
    with pytest.raises(ValueError, match="2 counts for 6 rows"):
        LadderObjective(shaken())(*batch(LADDER_MODEL), (1, 4))


def test_dit_times_are_the_integers_of_its_process() -> None:
    times = native_time("dit", torch.tensor([1e-9, 0.4999, 0.5, 1 - 1e-9], dtype=torch.float64))
    assert times.tolist() == [0, 499, 500, 999]


@pytest.mark.parametrize("config", [LADDER_MODEL, DIT], ids=["sit", "dit"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_distilling_mixes_the_gradients_towards_data_and_teacher(config: ModelConfig, share: float) -> None:
    """Towards the teacher alone is what training on the teacher's answers as data would give."""
    model, teacher, inputs, counts = (
        shaken(config),
        shaken(dataclasses.replace(config, **DENSE), 7),
        batch(config),
        (4,) * 6,
    )
    mixed = gradients(LadderObjective(model, LossConfig(distill=share), teacher), inputs, counts)
    data = gradients(LadderObjective(model), inputs, counts)
    taught = gradients(LadderObjective(model, LossConfig(distill=1.0), teacher), inputs, counts)
    expected = [None if a is None else torch.lerp(a, b, share) for a, b in zip(data, taught, strict=True)]  # type: ignore[arg-type]
    for a, b in zip(mixed, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
def test_a_model_that_says_what_its_teacher_says_has_nothing_to_learn_from_it(prediction: str) -> None:
    model = shaken()
    loss = LossConfig(path="gvp", prediction=prediction, weighting="likelihood", distill=1.0)  # type: ignore[arg-type]
    inputs = batch(LADDER_MODEL)
    # Full attention is the teacher's way, whatever count the student takes.
    assert LadderObjective(model, loss, shaken())(*inputs, (0,) * 6).mean().item() == pytest.approx(0, abs=1e-9)
    assert LadderObjective(model, loss, shaken())(*inputs, (4,) * 6).mean().item() > 1e-4


def test_the_error_towards_a_teacher_is_the_mean_square_under_the_loss_weight() -> None:
    model, teacher, inputs = shaken(), shaken(seed=7), batch(LADDER_MODEL)
    data, noise, t, label = inputs
    x = t.view(-1, 1, 1, 1) * data + (1 - t.view(-1, 1, 1, 1)) * noise
    expected = (model(x, t, label, 4) - teacher(x, t, label, 0)).square().mean()
    loss = LadderObjective(model, LossConfig(distill=1.0), teacher)(*inputs, (4,) * 6).mean()
    torch.testing.assert_close(loss, expected)


def test_dits_bound_keeps_its_whole_weight_beside_a_teacher() -> None:
    model, inputs = shaken(DIT), batch(DIT)
    only_variance = LadderObjective(model, LossConfig(distill=1.0), shaken(DIT))(*inputs, (0,) * 6).mean()
    both = LadderObjective(model)(*inputs, (0,) * 6).mean()
    data, noise, t, label = inputs
    mse = both - only_variance  # the teacher is the model itself: no error towards it
    x = q_sample(gaussian_tables(respace("")), data, noise, t)
    torch.testing.assert_close(mse, (model(x, t, label, 0)[:, :1] - noise).square().mean(), rtol=1e-4, atol=1e-5)


def test_a_teacher_gets_no_gradient_and_is_not_changed() -> None:
    teacher = shaken(seed=7)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    objective = LadderObjective(shaken(), LossConfig(distill=0.5), teacher)
    objective(*batch(LADDER_MODEL), (4,) * 6).mean().backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert objective.model.blocks[0].attn.qkv.weight.grad is not None


def test_teacher_and_weight_come_together() -> None:
    with pytest.raises(ConfigError, match="with a teacher"):
        LadderObjective(shaken(), teacher=shaken())
    with pytest.raises(ConfigError, match="without a teacher"):
        LadderObjective(shaken(), LossConfig(distill=0.5))


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"path": "curved"}, "linear, gvp, vp"),
        ({"prediction": "flow"}, "velocity, score, noise"),
        ({"weighting": "heavy"}, "none, velocity, likelihood"),
        ({"distill": 1.5}, "1.5"),
        ({"distill": float("nan")}, "nan"),
    ],
)
def test_unknown_losses_are_named(setting: dict[str, str | float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        LossConfig(**setting)  # type: ignore[arg-type]


def test_a_dit_model_refuses_sits_choices() -> None:
    with pytest.raises(ConfigError, match="are for SiT"):
        LadderObjective(shaken(DIT), LossConfig(prediction="score"))

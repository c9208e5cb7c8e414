import torch
from torch import nn

from medcli.training.ema import Ema, decay_at


def test_averages_of_trained_parameters_move_and_frozen_ones_are_their_own() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    start = model.weight.detach().clone()
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1)
        model.bias.add_(1)
    ema.update()
    averaged = ema.weights(model)
    torch.testing.assert_close(averaged["weight"], start + 0.1)
    assert torch.equal(averaged["bias"], model.bias)


def test_a_decay_of_zero_is_the_weights_themselves() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model, 0.0)
    with torch.no_grad():
        model.weight.mul_(3)
    ema.update()
    assert torch.equal(ema.weights(model)["weight"], model.weight)


def test_the_average_forgets_the_initial_weights() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.zero_()
        ema = Ema(model, 0.9999)
        model.weight.add_(1)
    for step in range(1, 201):
        ema.update(step)
    assert ema.weights(model)["weight"].min() > 0.99999  # a constant decay would give 0.02


def test_the_decay_rises_to_the_runs_own() -> None:
    assert [decay_at(0.9, step) for step in (1, 10, 100)] == [2 / 11, 11 / 20, 0.9]
    assert decay_at(0.9999, 89_990) == 0.9999
    assert decay_at(0.9999, 89_900) < 0.9999

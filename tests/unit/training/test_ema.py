import torch
from torch import nn

from medcli.training.ema import Ema


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

import pytest
import torch
from torch import nn

from medcli.training.ema import Ema
from medcli.training.optimizers import build_optimizer


def numbers(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_parameters_together_get_the_bits_of_one_by_one():
    shapes = [(7, 5), (33,), (1, 3, 9), (64, 17)]
    together = [nn.Parameter(numbers(*shape, seed=place)) for place, shape in enumerate(shapes)]
    alone = [nn.Parameter(value.detach().clone()) for value in together]
    ours = build_optimizer(together, 1e-2, torch.device("cpu"))
    plain = torch.optim.AdamW(alone, lr=1e-2, weight_decay=0.0, foreach=False, fused=False)
    for step in range(20):
        for place, (one, two) in enumerate(zip(together, alone, strict=True)):
            # A step of a ladder leaves some parameters out.
            one.grad = None if (step + place) % 3 == 0 else numbers(*one.shape, seed=100 * step + place)
            two.grad = one.grad
        ours.step()
        plain.step()
    assert all(torch.equal(one, two) for one, two in zip(together, alone, strict=True))


def test_on_a_gpu_the_fused_kernel_is_asked_for():
    optimizer = build_optimizer([nn.Parameter(torch.zeros(2))], 1e-2, torch.device("cuda"))
    assert (optimizer.defaults["fused"], optimizer.defaults["foreach"]) == (True, False)
    assert optimizer.defaults["weight_decay"] == 0


def test_the_average_moves_by_its_share_and_frozen_weights_are_their_own():
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    start = model.weight.detach().clone()
    ema = Ema(model, 0.75)
    with torch.no_grad():
        model.weight.add_(1)
    ema.update()
    weights = ema.weights(model)
    torch.testing.assert_close(weights["weight"], start + 0.25)
    assert weights["bias"].data_ptr() == model.bias.data_ptr()
    assert list(ema.shadow) == ["weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_average_is_float32(dtype):
    assert Ema(nn.Linear(2, 2, dtype=dtype), 0.5).shadow["weight"].dtype == torch.float32

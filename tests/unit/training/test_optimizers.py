import pytest
import torch
from torch import nn

from medcli.settings.training import OptimizerName
from medcli.training.optimizers import COUNTER, MOMENTS, Adan, build_optimizer


def adan_by_hand(weight: float, grads: list[float], lr: float, decay: float, proximal: bool) -> float:
    """Adan's formulas on one number."""
    b1, b2, b3, eps = 0.98, 0.92, 0.99, 1e-8
    m = v = n = 0.0
    before = grads[0]
    for k, g in enumerate(grads, 1):
        d, before = g - before, g
        m, v, n = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * d, b3 * n + (1 - b3) * (g + b2 * d) ** 2
        update = (m / (1 - b1**k) + b2 * v / (1 - b2**k)) / ((n / (1 - b3**k)) ** 0.5 + eps)
        weight = (weight - lr * update) / (1 + lr * decay) if proximal else weight * (1 - lr * decay) - lr * update
    return weight


@pytest.mark.parametrize("proximal", [True, False])
def test_adan_follows_its_formulas(proximal: bool) -> None:
    parameter = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
    optimizer = Adan([parameter], 0.1, weight_decay=0.05, proximal=proximal)
    grads = [0.3, -0.2, 0.5, 0.45]
    for grad in grads:
        parameter.grad = torch.tensor([grad], dtype=torch.float64)
        optimizer.step()
    assert parameter.item() == pytest.approx(adan_by_hand(0.7, grads, 0.1, 0.05, proximal), rel=1e-9)


@pytest.mark.parametrize("name", MOMENTS)
def test_the_kept_tensors_are_those_listed(name: OptimizerName) -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([parameter], 0.1, torch.device("cpu"), name)
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert set(optimizer.state[parameter]) == {COUNTER, *MOMENTS[name]}

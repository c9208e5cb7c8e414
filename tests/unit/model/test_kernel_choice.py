from dataclasses import dataclass

import pytest
import torch

from medcli.model import kernel_choice
from medcli.model.kernel_choice import kernels_win
from medcli.model.mediator import MediatorAttention
from tests.pretend.cuda import pretend_cuda


@pytest.fixture
def module(monkeypatch):
    monkeypatch.setattr(kernel_choice, "has_kernels", lambda device_type: True)
    kernel_choice._measured.cache_clear()
    yield MediatorAttention(8, 2, 4, (4,)).requires_grad_(False)
    kernel_choice._measured.cache_clear()


@dataclass
class Timings:
    """Milliseconds of the two ways in the order they are measured."""

    plain: float
    fused: float
    calls: int = 0

    def __call__(self, work):
        self.calls += 1
        return self.plain if self.calls % 2 else self.fused


@pytest.mark.parametrize(("fused", "expected"), [(0.5, True), (0.99, False), (1.5, False)])
def test_the_kernels_run_where_they_are_faster_and_each_shape_is_measured_once(monkeypatch, module, fused, expected):
    timings = Timings(1.0, fused)
    monkeypatch.setattr(kernel_choice, "_milliseconds", timings)
    with pretend_cuda(), torch.no_grad():
        x_BND = torch.zeros(2, 16, 8, device="cuda")
        for _ in range(2):
            assert kernels_win(module, x_BND, 4, False) is expected
        assert timings.calls == 2
        kernels_win(module, x_BND[:1], 4, False)
        assert timings.calls == 4


def test_nothing_is_measured_on_a_cpu_under_gradients_or_without_triton(monkeypatch, module):
    monkeypatch.setattr(kernel_choice, "_milliseconds", lambda work: pytest.fail("measured"))
    with torch.no_grad():
        assert not kernels_win(module, torch.zeros(2, 16, 8), 4, False)
    with pretend_cuda():
        assert not kernels_win(module, torch.zeros(2, 16, 8, device="cuda"), 4, False)
        monkeypatch.setattr(kernel_choice, "has_kernels", lambda device_type: False)
        with torch.no_grad():
            assert not kernels_win(module, torch.zeros(2, 16, 8, device="cuda"), 4, False)

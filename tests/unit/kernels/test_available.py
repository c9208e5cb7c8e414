import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from medcli.kernels.available import has_kernels


@pytest.fixture(autouse=True)
def nothing_remembered():
    has_kernels.cache_clear()
    yield
    has_kernels.cache_clear()


def test_only_a_cuda_device_runs_kernels_and_only_with_triton(monkeypatch):
    assert not has_kernels("cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not has_kernels("cuda")


@pytest.mark.parametrize(("problem", "expected"), [(None, True), (RuntimeError("no C compiler"), False)])
def test_a_kernel_is_launched_to_find_out(monkeypatch, problem, expected):
    launched = []

    def draw(*arguments):
        launched.append(arguments)
        if problem:
            raise problem

    triton, errors, kernel = (ModuleType(name) for name in ("triton", "triton.errors", "medcli.kernels.noise"))
    errors.TritonError = type("TritonError", (Exception,), {})
    kernel.draw, kernel.GROUP = draw, 4
    for module in (triton, errors, kernel):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, dtype, device: zeros(*shape, dtype=dtype))
    assert has_kernels("cuda") is has_kernels("cuda") is expected
    assert len(launched) == 1

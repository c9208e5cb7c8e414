"""Compiled functions; the compiler itself is left out, since it takes long."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.fx import GraphModule

from medcli.errors import EnvironmentProblem
from medcli.runtime.compilation import compiled_function, require_compiler

CPU = torch.device("cpu")


def test_a_cpu_needs_a_cpp_compiler_where_torch_looks_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    require_compiler(CPU)
    for name, value in (("CXX", "no-such-compiler"), ("PATH", str(tmp_path))):
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv(name, value)
        with pytest.raises(EnvironmentProblem, match="needs a C\\+\\+ compiler, and there is no") as missing:
            require_compiler(CPU)
        assert missing.value.hint == "install one, set CXX to the one you have, or leave --compile out"


def test_a_gpu_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object | None] = [None, object()]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found.pop() if name == "triton" else None)
    require_compiler(torch.device("cuda"))
    with pytest.raises(EnvironmentProblem, match="needs Triton"):
        require_compiler(torch.device("cuda"))


def double(x: torch.Tensor, *, plus: int = 0) -> torch.Tensor:
    return 2 * x + plus


@pytest.fixture
def num_graphs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many graphs were compiled, by a compiler that leaves them as they are."""
    graphs: list[GraphModule] = []

    def backend(graph: GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return lambda: len(graphs)


def test_each_compilation_has_graphs_of_its_own_one_a_shape(num_graphs: Callable[[], int]) -> None:
    for _ in range(3):  # torch keeps eight graphs with a piece of code
        compiled = compiled_function(double)
        for size in (1, 2, 3, 4, 2):
            assert torch.equal(compiled(torch.ones(size)), 2 * torch.ones(size))
    assert num_graphs() == 12
    assert torch.equal(compiled(torch.ones(2), plus=3), torch.full((2,), 5.0))


def test_a_compiler_that_fails_is_a_problem_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        raise RuntimeError("g++: error: no such thing\nand many lines more")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with pytest.raises(EnvironmentProblem) as failed:
        compiled_function(double)(torch.ones(2))
    assert failed.value.message == "compilation failed: g++: error: no such thing"
    assert failed.value.hint == "leave --compile out"

"""Compile functions with torch, and check that this machine can."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch

from medcli.errors import EnvironmentProblem

Result = TypeVar("Result")

DO_WITHOUT = "leave --compile out"


def cpp_compiler() -> str:
    """Return the command of the C++ compiler, found as torch finds it."""
    return os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))


def require_compiler(device: torch.device) -> None:
    """Check that `torch.compile` finds its compiler; nothing is compiled.

    Raises:
        EnvironmentProblem: If there is no C++ compiler for a CPU, or no Triton for a CUDA device.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise EnvironmentProblem(
                "--compile on a CUDA device needs Triton, which is not installed",
                hint=f"pip install triton, or {DO_WITHOUT}",
            )
        return
    command = cpp_compiler()
    if shutil.which(command) is None:
        raise EnvironmentProblem(
            f"--compile needs a C++ compiler, and there is no {command} here",
            hint=f"install one, set CXX to the one you have, or {DO_WITHOUT}",
        )


def compiled_function(function: Callable[..., Result]) -> Callable[..., Result]:
    """Compile a function for fixed shapes; modules that differ only in their weights share a graph.

    torch keeps graphs with the code of a function, eight at most, and runs the rest uncompiled. So each call of this
    compiles a copy of the code, which has eight of its own.

    Args:
        function: Without a closure. Compiles at its first call, which takes seconds to minutes.

    Returns:
        The compiled function. It raises an EnvironmentProblem if the compiler fails.
    """
    # Loads slowly, and few runs need it.
    from torch._dynamo.exc import BackendCompilerFailed

    assert isinstance(function, FunctionType)
    assert function.__closure__ is None
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__)
    own.__kwdefaults__ = function.__kwdefaults__
    compiled_own = torch.compile(own, dynamic=False)

    def run(*arguments: Any, **named: Any) -> Result:
        try:
            return compiled_own(*arguments, **named)
        except BackendCompilerFailed as err:
            cause = str(err.inner_exception).strip().partition("\n")[0]
            raise EnvironmentProblem(f"compilation failed: {cause}", hint=DO_WITHOUT) from err

    return run

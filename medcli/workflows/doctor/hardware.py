"""Checks of the processor, GPUs, attention kernels, compiler and number formats."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medcli.errors import EnvironmentProblem
from medcli.runtime.processes import num_cores
from medcli.workflows.doctor.finding import Finding

if TYPE_CHECKING:
    import torch

GIB = 2**30
HEAD_WIDTH = 64
NUM_TOKENS = 64
SLOW_SECS = 20
"""Time after which a compiler counts as broken."""


def processor() -> Iterator[Finding]:
    """Check the CPU, its memory, and torch's threads."""
    import torch

    cores, threads = num_cores(), torch.get_num_threads()
    found = f"{_processor_name()}, {cores} core{'s' if cores > 1 else ''}, {threads} thread{'s' if threads > 1 else ''}"
    memory = _memory_gib()
    found += f", {memory:.1f} GiB memory" if memory else ""
    if threads < cores:
        set_by = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)), None)
        remedy = f"unset {set_by}, or set it to {cores}" if set_by else f"set OMP_NUM_THREADS={cores}"
        yield Finding(name="processor", status="remark", found=found, disables="some speed", remedy=remedy)
    else:
        yield Finding(name="processor", status="ok", found=found)


def accelerators() -> Iterator[Finding]:
    """Check the GPUs that torch can use."""
    import torch

    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(number)
        found = f"{about.name}, {about.total_memory / GIB:.0f} GiB, compute capability {about.major}.{about.minor}"
        yield Finding(name=f"cuda:{number}", status="ok", found=found)
    if torch.backends.mps.is_available():
        yield Finding(name="mps", status="ok", found="Apple GPU")
    elif not torch.cuda.is_available():
        # ROCm builds answer to cuda as well.
        is_built = bool(torch.version.cuda or torch.version.hip)
        why = "torch finds no device or driver" if is_built else f"torch {torch.__version__} is built without CUDA"
        remedy = "check nvidia-smi and the driver" if is_built else "install a CUDA build: https://pytorch.org"
        disables = "large models at a useful speed: minutes an image instead of seconds"
        yield Finding(name="gpu", status="missing", found=why, disables=disables, remedy=remedy)


def fused_attention() -> Iterator[Finding]:
    """Check the memory-efficient attention kernels."""
    for device in _devices():
        kernels = [name for name in ("flash", "efficient", "cudnn") if _runs_fused(name, device)]
        yield Finding(
            name=f"fused attention, {device.type}",
            status="ok" if kernels else "missing",
            found=", ".join(kernels) or "no kernel runs",
            disables=None if kernels else "full attention at high resolution: memory grows with the square of tokens",
            remedy=None if kernels else "install a newer torch",
        )


def compilation() -> Iterator[Finding]:
    """Check the compiler that --compile needs."""
    from medcli.runtime.compilation import require_compiler

    for device in _devices():
        name = f"compilation, {device.type}"
        try:
            require_compiler(device)
        except EnvironmentProblem as err:
            yield Finding(name=name, status="missing", found=err.message, disables="--compile", remedy=err.hint)
        else:
            yield _compiler_finding(name, device)


def _compiler_finding(name: str, device: torch.device) -> Finding:
    """Run the C++ compiler, which may be installed and broken."""
    from medcli.runtime.compilation import cpp_compiler

    command = cpp_compiler()
    if device.type == "cpu" and os.name == "posix":
        try:
            subprocess.run([command, "--version"], check=True, capture_output=True, timeout=SLOW_SECS)
        except (OSError, subprocess.SubprocessError) as err:
            reason = " ".join(str(err).split())
            found, remedy = f"{command} does not run: {reason}", "install another compiler, or set CXX to one"
            return Finding(name=name, status="missing", found=found, disables="--compile", remedy=remedy)
    return Finding(name=name, status="ok", found="a compiler is installed")


def bfloat16() -> Iterator[Finding]:
    """Check whether --dtype bf16 is fast."""
    from medcli.runtime.precision import instead_of_bfloat16, multiplies_bfloat16

    for device in _devices():
        is_fast, instead = multiplies_bfloat16(device), instead_of_bfloat16(device)
        yield Finding(
            name=f"bf16 arithmetic, {device.type}",
            status="ok" if is_fast else "missing",
            found="in hardware" if is_fast else "emulated",
            disables=None if is_fast else f"the speed of --dtype bf16: it is many times slower than {instead} here",
            remedy=None if is_fast else f"use --dtype {instead}",
        )


def _devices() -> list[torch.device]:
    """Return the CPU, and the accelerator if there is one."""
    import torch

    kinds = ["cpu"] + (["cuda"] if torch.cuda.is_available() else ["mps"] if torch.backends.mps.is_available() else [])
    return [torch.device(kind) for kind in kinds]


def _runs_fused(kernel: str, device: torch.device) -> bool:
    """Return whether a kernel runs; without fallback, torch raises if it cannot."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
    }
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    tokens = torch.zeros(1, 1, NUM_TOKENS, HEAD_WIDTH, device=device, dtype=dtype)
    with warnings.catch_warnings(), sdpa_kernel(backends[kernel]):
        warnings.simplefilter("ignore")
        try:
            scaled_dot_product_attention(tokens, tokens, tokens)
        except RuntimeError:
            return False
    return True


def _processor_name() -> str:
    """Return the CPU's name from /proc/cpuinfo, else from Python."""
    about = Path("/proc/cpuinfo")
    if about.is_file() and (line := re.search(r"^model name\s*:\s*(.+)$", about.read_text(), flags=re.MULTILINE)):
        return line[1]
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    """Return the machine's memory; None: unknown on this system."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (AttributeError, ValueError, OSError):
        return None

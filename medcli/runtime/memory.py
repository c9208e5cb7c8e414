"""Measure the peak memory of a call."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch

MIB = 2**20
KIB = 2**10
KIB_PER_MIB = MIB // KIB
PROCESS = Path("/proc/self")
RESET_PEAK = "5"
"""Written to `clear_refs`, it resets the peak of resident memory (`man 5 proc`)."""


def peak_memory_mib(work: Callable[[], object], device: torch.device) -> float | None:
    """Run the work and measure the peak of its memory, beyond what was held before.

    On CUDA it is exact: what torch's allocator handed out. On a CPU it is the growth of the process's resident
    memory, after free memory is returned to the system: precise to about a MiB, child processes excluded.

    Args:
        work: Called once.
        device: Device whose memory is measured.

    Returns:
        MiB, or None where the system does not report it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    before_mib = _reset_peak_mib() if device.type == "cpu" else None
    work()
    if before_mib is None:
        return None
    return max(0.0, _status_mib("VmHWM") - before_mib)


def _reset_peak_mib() -> float | None:
    """Reset the peak; return the resident memory it starts from, or None where Linux does not allow it."""
    try:
        # Freed memory that the allocator still holds would hide the growth.
        ctypes.CDLL(None).malloc_trim(0)
        (PROCESS / "clear_refs").write_text(RESET_PEAK, encoding="ascii")
        return _status_mib("VmHWM")
    except (OSError, AttributeError, TypeError, ValueError):
        return None


def _status_mib(name: str) -> float:
    status = (PROCESS / "status").read_text(encoding="ascii", errors="replace")
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, flags=re.MULTILINE)
    if found is None:
        raise ValueError(f"this system's process status has no {name}")
    return int(found[1]) / KIB_PER_MIB


def available_bytes(device: torch.device) -> int | None:
    """Return how much memory can still be allocated on a device; None: not available on this system."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [_meminfo_bytes(), _cgroup_bytes()]
    return min((value for value in found if value is not None), default=None)


def _meminfo_bytes() -> int | None:
    """Read the memory that Linux estimates to be available without swapping."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, flags=re.MULTILINE)
    return int(found[1]) * KIB if found else None


def _cgroup_bytes(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Read what a container's memory limit leaves."""
    try:
        limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return int(limit) - int(used)
    except (OSError, ValueError):  # no such control group, or "max": no limit
        return None

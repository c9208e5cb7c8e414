"""Choice of the device a command runs on."""

from __future__ import annotations

import torch

from medcli.errors import ConfigError, EnvironmentProblem
from medcli.runtime.processes import Processes

KNOWN = ("cpu", "cuda", "mps")
"""Kinds of device medcli runs on."""
ALONE = Processes()
"""The process of a launch of one."""


def pick_device(name: str | None = None, processes: Processes = ALONE) -> torch.device:
    """Return the device of a name, checked to be available; of several GPUs, each process of a launch has its own.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, `mps`; None or `auto` takes a CUDA device if there is one, else the CPU.
        processes: This process of the launch.

    Raises:
        ConfigError: If no device has that name.
        EnvironmentProblem: If this machine lacks it.
    """
    device = _named(name)
    if device.type == "cuda" and device.index is None and not processes.is_alone:
        return torch.device("cuda", processes.local_rank % torch.cuda.device_count())
    return device


def use_device(name: str | None = None, processes: Processes = ALONE) -> torch.device:
    """Pick a device and make it this process's current GPU, so that nothing opens a context on another one.

    Arguments and errors as for `pick_device`.
    """
    device = pick_device(name, processes)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def _named(name: str | None) -> torch.device:
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in KNOWN:
        raise ConfigError(f"unknown device {name!r}", hint="use --device cpu, cuda, cuda:1 or mps")
    if not _is_available(device):
        raise EnvironmentProblem(f"device {name} is not available on this machine", hint="use --device cpu")
    return device


def _is_available(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu" and not device.index

"""Which device a command runs on."""

from __future__ import annotations

import torch

from medcli.errors import EnvironmentProblem


def pick_device(name: str | None = None) -> torch.device:
    """Turn a device's name into one that works.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, `mps`; None or `auto` takes a CUDA device if there is one, else the CPU.

    Raises:
        EnvironmentProblem: If the name is unknown or the device is not there.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise EnvironmentProblem(f"unknown device {name!r}", hint="use --device cpu, cuda, cuda:1 or mps") from err
    if not _is_available(device):
        raise EnvironmentProblem(f"device {name} is not available on this machine", hint="use --device cpu")
    return device


def _is_available(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu" and not device.index

"""Availability of Triton kernels on this machine."""

from __future__ import annotations

import functools
import importlib.util
import subprocess

import torch


@functools.cache
def has_kernels(device_type: str) -> bool:
    """Return whether tensors of a kind of device can be handed to the package's Triton kernels.

    One is launched to find out: Triton may be installed without the C compiler it calls, or not know the GPU.
    """
    if device_type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    # Loads slowly.
    from triton.errors import TritonError

    from medcli.kernels.noise import GROUP, draw

    number_B = torch.zeros(1, dtype=torch.int64, device=device_type)
    try:
        draw(0, number_B, number_B, 2 * GROUP, 0)
    except (TritonError, RuntimeError, OSError, subprocess.CalledProcessError):
        return False
    return True

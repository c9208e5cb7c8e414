"""Number formats of matrix products, and which of them a device computes fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

from medcli.errors import ConfigError
from medcli.runtime.reporting import Reporter

TF32 = "tf32"
"""float32 whose products a CUDA device may round to TF32."""
ON_CUDA_ONLY = ("fp16", TF32)
DTYPES = {"fp32": torch.float32, TF32: torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Number formats by the names commands use; each command offers some of them."""


def number_format(name: str, device: torch.device) -> Any:
    """Return the name of the number format to compute in.

    Args:
        name: A key of `DTYPES`, or `auto`: bf16 on a CUDA device that has instructions for it (compute capability 8.0
            and later), else fp32.

    Raises:
        ConfigError: If the device does not compute in it.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" and multiplies_bfloat16(device) else "fp32"
    if name in ON_CUDA_ONLY and device.type != "cuda":
        raise ConfigError(
            f"--dtype {name} needs a CUDA device, this is {device.type}", hint="use --dtype fp32, or bf16"
        )
    return name


@contextmanager
def float32_products(precision: Literal["highest", "high"]) -> Iterator[None]:
    """Set torch's precision of float32 products for a while: `highest` is float32, `high` allows TF32.

    The one switch of both matrix products and convolutions; the latter torch by itself rounds to TF32 on CUDA.
    """
    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    how = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic, "allow_tf32": precision == "high"}
    torch.set_float32_matmul_precision(precision)
    try:
        with cudnn.flags(enabled=cudnn.enabled, **how):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def products_of(dtype: str) -> AbstractContextManager[None]:
    """Multiply float32 as a number format says, by its name in `DTYPES`: as TF32 for `tf32` alone."""
    return float32_products("high" if dtype == TF32 else "highest")


def tf32(device: torch.device) -> AbstractContextManager[None]:
    """Let a CUDA device multiply float32 as TF32 for a while; other devices stay exact."""
    return float32_products("high") if device.type == "cuda" else nullcontext()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return True if a device has instructions for bfloat16 products; others are many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # not part of torch's public surface
    return asked is not None and bool(asked())


def instead_of_bfloat16(device: torch.device) -> str:
    """Return the number format for a device without instructions for bfloat16."""
    return "fp16" if device.type == "cuda" else "fp32"


def warn_if_slow(dtype: torch.dtype, device: torch.device, reporter: Reporter) -> None:
    """Warn if the device emulates this number format: results are right, but slow."""
    if dtype == torch.bfloat16 and not multiplies_bfloat16(device):
        kind = "GPU" if device.type == "cuda" else "CPU"
        reporter.note(
            f"this {kind} has no bfloat16 arithmetic, so --dtype bf16 is many times slower here: "
            f"use --dtype {instead_of_bfloat16(device)}"
        )

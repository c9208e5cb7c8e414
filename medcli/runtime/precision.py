"""Number formats of matrix products, and which of them a device computes fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from medcli.runtime.reporting import Reporter

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Number formats by the names commands use; each command offers some of them."""


@contextmanager
def float32_products(precision: Literal["highest", "high"]) -> Iterator[None]:
    """Set torch's precision of float32 matrix products for a while: `highest` is float32, `high` allows TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def tf32(device: torch.device) -> AbstractContextManager[None]:
    """Let a CUDA device multiply float32 matrices as TF32 for a while; other devices stay exact."""
    return float32_products("high") if device.type == "cuda" else nullcontext()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return True if a device has instructions for bfloat16 products; other CPUs are at least ten times slower."""
    if device.type != "cpu":
        return True
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # not part of torch's public surface
    return asked is not None and bool(asked())


def warn_if_slow(dtype: torch.dtype, device: torch.device, reporter: Reporter) -> None:
    """Warn if the device emulates this number format: results are right, but slow."""
    if dtype == torch.bfloat16 and not multiplies_bfloat16(device):
        reporter.note(
            "this CPU has no bfloat16 arithmetic, so --dtype bf16 is many times slower here: use --dtype fp32"
        )

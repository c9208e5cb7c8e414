"""Settings of the device a command computes on and of its output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medcli.settings.declare import MACHINE, OUTPUT, count_setting, setting

Dtype = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

DEVICE: dict[str, Any] = {
    "help": "cpu, cuda, cuda:1 or mps.",
    "panel": MACHINE,
    "metavar": "NAME",
    "default_text": "the fastest available",
    "example": "cpu",
    "decides": False,
}
MAX_BATCH = 2**20
"""A larger batch is a mistake."""


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """Device and number format of a command that runs a network."""

    device: str | None = setting(None, **DEVICE)
    dtype: Dtype = setting(
        "auto",
        help="Number format of the network; auto: bf16 on GPUs that have it, else fp32. tf32 and fp16 need CUDA.",
        panel=MACHINE,
    )
    batch_size: int | None = count_setting(
        None,
        MAX_BATCH,
        help="Batch size.",
        panel=MACHINE,
        default_text="by device and model",
        short=True,
        decides=False,
    )


def output_setting(default: Path | None = None, **changes: Any) -> Any:
    """Make the `-o/--output` setting of a command."""
    declaration = {"help": "Output path.", "panel": OUTPUT, "letter": "-o", "metavar": "PATH", "short": True, **changes}
    return setting(default, decides=False, **declaration)


def force_setting(text: str = "Overwrite existing output.") -> Any:
    """Make the `-f/--force` switch of a command."""
    return setting(False, help=text, panel=OUTPUT, letter="-f", decides=False)


def seed_setting(panel: str) -> Any:
    """Make the `--seed` setting; noise is keyed by 64 bits, so a larger seed would repeat a smaller one."""
    return count_setting(0, 2**64 - 1, help="Random seed.", panel=panel, minimum=0, short=True)

"""Settings of `latents`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medcli.settings.declare import INPUT, OUTPUT, count_setting, group, setting
from medcli.settings.machine import MachineSettings, output_setting
from medcli.settings.network import MAX_RES, name_setting, parse_name
from medcli.settings.sampling import MAX_IMAGES


@dataclass(frozen=True, kw_only=True)
class LatentsRequest:
    """A data set to encode."""

    data: str = setting(
        help="A folder of images with a sub-folder per class, or with labels in a .json or .csv file; or that file.",
        metavar="DATA",
        positional=True,
        parse=parse_name,
        expects="a path",
    )
    resolution_px: int = count_setting(
        256, MAX_RES, key="res", help="Side of the square crop in pixels.", panel=INPUT, metavar="PX", short=True
    )
    vae: str | None = name_setting(
        None,
        help="Autoencoder: a diffusers folder, or a hub name in the cache.",
        panel=INPUT,
        default_text="stabilityai/sd-vae-ft-ema",
        short=True,
    )
    output: Path | None = output_setting(
        metavar="DIR", help="Folder of the latents.", default_text="DATA-latents-PX here"
    )
    flip: bool = setting(True, help="Also encode mirrored images.", panel=OUTPUT, negatable=True, short=True)
    storage: Literal["fp32", "fp16"] = setting("fp32", help="Number format on disk.", panel=OUTPUT, short=True)
    shard_size: int = count_setting(
        512, MAX_IMAGES, help="Number of images per file, at most lost when the process is killed.", panel=OUTPUT
    )
    """The default is seconds of work on a GPU, and files of 32 MiB for 256 px with flips."""
    machine: MachineSettings = group(
        MachineSettings,
        device={"short": True},
        dtype={"default": "fp32", "help": "Number format of the autoencoder; tf32 and fp16 need CUDA."},
        batch_size={"default_text": "by device"},
    )

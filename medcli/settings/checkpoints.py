"""Settings of `convert` and `inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medcli.settings.declare import INPUT, OUTPUT, group, setting
from medcli.settings.machine import force_setting, output_setting
from medcli.settings.network import NetworkSource, name_setting

LayoutName = Literal["medcli", "official", "diffusers"]
StorageName = Literal["fp32", "bf16", "fp16"]

REQUIRED: dict[str, Any] = {"required": True, "default_text": ""}
"""Changes of the checkpoint's declaration where there is no default."""


@dataclass(frozen=True, kw_only=True)
class ConvertRequest:
    """A conversion."""

    network: NetworkSource = group(
        NetworkSource,
        checkpoint={
            **REQUIRED,
            "metavar": "SOURCE",
            "help": "An official or training .pt file, a diffusers DiT folder, or a file of ours.",
        },
        mediators={"default_text": "the source's, else 4,16,64"},
        layers={"default_text": "the source's, else all"},
        weights={"short": True},
        family={"short": True},
        num_classes={"short": True},
    )
    """The checkpoint and its changes; without `mediators` and `layers` a dense one gets the default ladder."""
    vae: str | None = name_setting(
        None,
        help="Autoencoder of a bare file's latents, whose stride, scale and shift the result records.",
        panel=INPUT,
        default_text="the source's",
    )
    output: Path | None = output_setting(default_text="SOURCE-mediators.safetensors here")
    """File or folder; None: the source's name with `-mediators`, `-medcli`, `-official` or `-diffusers`, in the
    current folder."""
    dtype: StorageName | None = setting(
        None,
        help="Number format of the stored weights; fixed position tables stay as they are.",
        panel=OUTPUT,
        default_text="the source's",
        short=True,
    )
    to: LayoutName = setting("medcli", help="Layout of the result.", panel=OUTPUT, short=True)
    force: bool = force_setting()
    digest: bool = True
    """True: hash the output while it is written; False: the report hashes it on request."""


@dataclass(frozen=True, kw_only=True)
class InspectRequest:
    """A checkpoint to describe."""

    network: NetworkSource = group(
        NetworkSource,
        only=("checkpoint", "download", "family", "heads"),
        checkpoint={**REQUIRED, "metavar": "FILE"},
        family={"short": True},
        heads={"short": True},
    )

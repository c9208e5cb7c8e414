"""Latent spaces of autoencoders: channels, stride and factors, by their configuration alone. Torch-free."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medcli.errors import EnvironmentProblem
from medcli.runtime.json_records import read_json

CONFIG_FILE = "config.json"
HINT = "pass a folder with a diffusers AutoencoderKL: --vae PATH"
ALIASES = {alias: f"stabilityai/sd-vae-ft-{kind}" for kind in ("ema", "mse") for alias in (kind, f"sd-vae-ft-{kind}")}
"""Short names, as the DiT and SiT code have them."""
MAX_CONFIG_BYTES = 1 << 20
MAX_CHANNELS, MAX_LEVELS = 4096, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentSpace:
    """Latents of an autoencoder, as its configuration describes them."""

    channels: int
    stride: int
    """Image pixels a latent pixel covers along one side."""
    scale: float | None
    """Factor of latents after the shift; None: not in the configuration."""
    shift: float | None
    """Number subtracted from latents; None: not in the configuration."""


def latent_space(name: str) -> LatentSpace:
    """Read the latent space of an autoencoder from its configuration.

    Args:
        name: A local folder, or a hub name that is in the Hugging Face cache.

    Raises:
        EnvironmentProblem: If it is not on this machine, or its configuration is damaged.
    """
    file = autoencoder_folder(name) / CONFIG_FILE
    if not file.is_file():
        raise EnvironmentProblem(f"{file.parent} holds no usable autoencoder", hint=HINT)
    try:
        values = read_json(file, MAX_CONFIG_BYTES)
        channels, levels = values.get("latent_channels", 4), len(values.get("block_out_channels", (64,)))
        scale, shift = values.get("scaling_factor"), values.get("shift_factor")
        if not (type(channels) is int and 1 <= channels <= MAX_CHANNELS and 1 <= levels <= MAX_LEVELS):
            raise ValueError(f"{channels} channels, {levels} levels")
        if not (scale is None or (_is_number(scale) and scale > 0)) or not (shift is None or _is_number(shift)):
            raise ValueError(f"scaling_factor {scale!r:.20} and shift_factor {shift!r:.20}, expected numbers")
    except (OSError, ValueError, TypeError, AttributeError) as err:
        raise EnvironmentProblem(f"{file} describes no usable autoencoder ({str(err)[:200]})", hint=HINT) from err
    return LatentSpace(
        channels=channels,
        stride=2 ** (levels - 1),
        scale=None if scale is None else float(scale),
        shift=None if shift is None else float(shift),
    )


def autoencoder_folder(name: str) -> Path:
    """Return the folder with an autoencoder's configuration; a pipeline holds its autoencoder in `vae`."""
    folder = Path(name) if Path(name).is_dir() else cached_folder(name)
    return folder / "vae" if (folder / "vae" / CONFIG_FILE).is_file() else folder


def cached_folder(name: str) -> Path:
    """Return the folder of a hub model in the Hugging Face cache.

    Raises:
        EnvironmentProblem: If it is not there.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = ALIASES.get(name, name)
    with suppress(HFValidationError):  # not even the form of a hub name
        for file in (CONFIG_FILE, f"vae/{CONFIG_FILE}"):
            found = try_to_load_from_cache(name, file)
            if isinstance(found, str):
                return Path(found).parent
    raise EnvironmentProblem(f"the autoencoder {name} is not on this machine, and medcli never downloads", hint=HINT)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""Latent spaces of autoencoders: channels, stride and factors, by their configuration alone. Torch-free."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcli.checkpoint.hub import PREFIX, download_command, hub_path
from medcli.checkpoint.lightningdit import STATISTICS
from medcli.config import SD_AUTOENCODER, SD_CHANNELS, VAVAE
from medcli.data.autoencoder_file import HINT, inferred_config, read_tensors
from medcli.errors import EnvironmentProblem
from medcli.runtime.json_records import read_json

CONFIG_FILE, KIND = "config.json", "AutoencoderKL"
ALIASES = {
    **{alias: f"stabilityai/sd-vae-ft-{kind}" for kind in ("ema", "mse") for alias in (kind, f"sd-vae-ft-{kind}")},
    **{"sd": SD_AUTOENCODER, "sdxl": "stabilityai/sdxl-vae", "vavae": VAVAE},
}
"""Short names, those of the DiT and SiT code among them."""
SINGLE_FILES = {VAVAE: "vavae-imagenet256-f16d32-dinov2.pt"}
"""Weights of hub repositories without a configuration."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
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
    """Read the latent space of an autoencoder from its configuration, of a bare file from its tensors.

    Args:
        name: A local folder or file, a short name, or a hub name that is in the Hugging Face cache.

    Raises:
        EnvironmentProblem: If it is not on this machine, or its configuration is damaged.
    """
    place = autoencoder_place(name)
    values = autoencoder_config(place)
    try:
        channels, levels = values.get("latent_channels", 4), len(values.get("block_out_channels", (64,)))
        scale, shift = values.get("scaling_factor"), values.get("shift_factor")
        if not (type(channels) is int and 1 <= channels <= MAX_CHANNELS and 1 <= levels <= MAX_LEVELS):
            raise ValueError(f"{channels} channels, {levels} levels")
        if not (scale is None or (_is_number(scale) and scale > 0)) or not (shift is None or _is_number(shift)):
            raise ValueError(f"scaling_factor {scale!r:.20} and shift_factor {shift!r:.20}, expected numbers")
    except (ValueError, TypeError) as err:
        raise EnvironmentProblem(f"{place} describes no usable autoencoder ({str(err)[:200]})", hint=HINT) from err
    is_told = config_file(place) is not None or channels != SD_CHANNELS
    return LatentSpace(
        channels=channels,
        stride=2 ** (levels - 1),
        scale=float(scale) if scale is not None and is_told else None,
        shift=None if shift is None else float(shift),
    )


def config_file(place: Path) -> Path | None:
    """Return the configuration of an autoencoder's folder or file; None for a bare file."""
    file = (place if place.is_dir() else place.parent) / CONFIG_FILE
    # Beside a single file may stand the configuration of something else.
    is_its_own = place.is_dir() or place.name.startswith("diffusion_pytorch_model")
    return file if is_its_own and file.is_file() else None


def autoencoder_config(place: Path) -> dict[str, Any]:
    """Return the configuration of an autoencoder as diffusers has it, read or inferred from tensors.

    Raises:
        EnvironmentProblem: If it is damaged, or of another kind of autoencoder.
    """
    file = config_file(place)
    if file is None:
        if place.is_dir():
            raise EnvironmentProblem(f"{place} holds no usable autoencoder", hint=HINT)
        return inferred_config(read_tensors(place)[0], str(place))
    try:
        values: dict[str, Any] = read_json(file, MAX_CONFIG_BYTES)
        if not isinstance(values, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as err:
        raise EnvironmentProblem(f"{file} describes no usable autoencoder ({str(err)[:200]})", hint=HINT) from err
    if (kind := values.get("_class_name", KIND)) != KIND:
        raise EnvironmentProblem(f"{place} holds a {str(kind)[:60]}, expected an {KIND}", hint=HINT)
    return values


def statistics_beside(name: str) -> Path | None:
    """Return the statistics of latents in the folder of an autoencoder, or of its file; None if there are none."""
    if name.startswith(PREFIX) and name.removeprefix(PREFIX) in SINGLE_FILES:
        return hub_path(f"{name}/{STATISTICS}")
    place = autoencoder_place(name)
    file = (place if place.is_dir() else place.parent) / STATISTICS
    return file if file.is_file() else None


def autoencoder_place(name: str) -> Path:
    """Return the folder or file of an autoencoder.

    A pipeline holds its autoencoder in `vae`; a folder without a configuration may hold one file of weights.

    Raises:
        EnvironmentProblem: If it is not on this machine.
    """
    path = Path(name)
    if path.is_file():
        return path
    if name.startswith(PREFIX):
        path = hub_path(f"{PREFIX}{repository_of(name)}")
    folder = path if path.is_dir() else cached_folder(name)
    if (folder / "vae" / CONFIG_FILE).is_file():
        return folder / "vae"
    if folder.is_file() or (folder / CONFIG_FILE).is_file():
        return folder
    files = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES and file.name != STATISTICS]
    return files[0] if len(files) == 1 else folder


def cached_folder(name: str) -> Path:
    """Return the folder of a hub model in the Hugging Face cache, or the file of one that has no configuration.

    Raises:
        EnvironmentProblem: If it is not there.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = ALIASES.get(name, name)
    if "/" not in name:
        raise EnvironmentProblem(
            f"no autoencoder {name}: neither a file nor a folder here, and no short name ({', '.join(ALIASES)})",
            hint=HINT,
        )
    wanted = [CONFIG_FILE, f"vae/{CONFIG_FILE}", *([SINGLE_FILES[name]] if name in SINGLE_FILES else [])]
    files = f"{SINGLE_FILES[name]} {STATISTICS}" if name in SINGLE_FILES else ""
    missing = f"the autoencoder {name} is not on this machine, and medcli never downloads unasked"
    with suppress(HFValidationError):  # not even the form of a hub name
        for file in wanted:
            found = try_to_load_from_cache(name, file)
            if isinstance(found, str):
                return Path(found) if name in SINGLE_FILES else Path(found).parent
        get = f"get it once: {download_command(name, files)}"
        raise EnvironmentProblem(missing, hint=f"{get}; or name another: --vae PATH")
    raise EnvironmentProblem(missing, hint=HINT)


def repository_of(name: str) -> str:
    """Return the hub name behind `hf://` and a short name, with the file of weights where there is no configuration."""
    name = name.removeprefix(PREFIX)
    name = ALIASES.get(name, name)
    return f"{name}/{SINGLE_FILES[name]}" if name in SINGLE_FILES else name


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

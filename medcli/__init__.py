"""medcli: attention mediators for diffusion transformers. Importing this loads no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    import torch

    from medcli.config import ModelConfig
    from medcli.data.loaded_autoencoder import Autoencoder
    from medcli.engine.plan import Noise
    from medcli.errors import MedcliError
    from medcli.model.amm import Amm
    from medcli.model.backbone import DiffusionTransformer
    from medcli.schedule.dynamic import DynamicSchedule

__all__ = [
    "DynamicSchedule",
    "ModelConfig",
    "__version__",
    "count_macs",
    "load",
    "load_autoencoder",
    "new",
    "sample",
    "save",
]


def __getattr__(name: str) -> object:
    """Import the classes when they are first used: help needs neither."""
    if name == "ModelConfig":
        from medcli.config import ModelConfig

        return ModelConfig
    if name == "DynamicSchedule":
        from medcli.schedule.dynamic import DynamicSchedule

        return DynamicSchedule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted(__all__)


def load(
    path: str | os.PathLike[str],
    *,
    family: str | None = None,
    num_heads: int | tuple[int, ...] | None = None,
    weights: str = "ema",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    amm: tuple[int, ...] | Amm | None = None,
) -> DiffusionTransformer:
    """Build the model a checkpoint holds, whatever layout `medcli convert` reads.

    Args:
        path: A checkpoint file or a diffusers folder.
        family: `dit` or `sit`, where neither the file's contents nor its name tells.
        num_heads: Attention heads, of an EDT those of each stage, where the tensors can't tell.
        weights: `ema` or `model`, for training checkpoints that hold both.
        dtype: Parameter type; None keeps the file's. A CPU multiplies half precision slowly: `torch.float32` for files
            stored in it, such as `fashion`.
        amm: Blocks whose attention is modulated by distance, or all of its settings; None leaves attention alone.

    Raises:
        CheckpointError: If the file is missing, damaged, ambiguous or not a model of these families.
        ConfigError: If an argument has no such value, or modulation does not fit the model.
        EnvironmentProblem: If this machine lacks the device.
    """
    from medcli.model.amm import Amm
    from medcli.network import open_network
    from medcli.settings.network import NetworkSource
    from medcli.settings.values import check_as

    device, dtype = _placement(device, dtype)
    modulation = amm if amm is None or isinstance(amm, Amm) else Amm(blocks=tuple(amm))
    source = NetworkSource(checkpoint=Path(path), family=family, heads=num_heads, weights=weights)
    check_as(NetworkSource, weights=weights)
    network = open_network(source)
    model = network.load(device=device, dtype=dtype, amm=modulation)
    model.origin = network.info
    return model


def new(config: ModelConfig, seed: int = 0) -> DiffusionTransformer:
    """Build a model with fresh weights, initialised as the reference code initialises them.

    Args:
        seed: Random seed; the same seed gives the same weights. torch's global generator is left alone.

    Returns:
        The model in float32 on the CPU, in evaluation mode.

    Raises:
        ConfigError: If `config` is no `ModelConfig`.
    """
    from medcli.config import ModelConfig
    from medcli.model.backbone import fresh_model

    if not isinstance(config, ModelConfig):
        raise _not_a("medcli.ModelConfig", config)
    return fresh_model(config, seed).eval()


def sample(
    model: DiffusionTransformer,
    *,
    num_images: int = 4,
    classes: int | str | Sequence[int | str] | None = None,
    seed: int = 0,
    noise: torch.Tensor | Noise | None = None,
    decode: bool = True,
    **settings: Any,
) -> npt.NDArray[np.uint8] | torch.Tensor:
    """Sample a model as `medcli sample` does, without writing anything.

    Args:
        model: The model, from `load` or `new`; it decides the defaults of its settings.
        num_images: Number of images N; with initial states in `noise`, theirs.
        classes: One label or class name, or one an image; None: the classes in turn.
        noise: Initial states (N, C, Y, X) in place of the seed's, or a function (image numbers, draws) -> states, which
            also replaces the noise of later steps: draw 0 is the initial state, draw k + 1 that of solver step k.
        decode: Decode latents by the model's autoencoder, or by `vae` of the settings.
        settings: Settings of the command by name: `sampler="ode"`, `steps=50`, `cfg_interval=(0.3, 1)`, ...

    Returns:
        (N, Y, X, 3) uint8 images as a numpy array; with `decode=False` the final latents, (N, C, Y, X) float32 on the
        CPU.

    Raises:
        ConfigError: If a setting is unknown or does not fit the model, or the noise is of another shape.
        EnvironmentProblem: If images are decoded and the autoencoder is not on this machine.
    """
    from medcli.workflows.sample.in_memory import sample_in_memory

    _check_model(model)
    return sample_in_memory(
        model, num_images=num_images, classes=classes, seed=seed, noise=noise, decode=decode, settings=settings
    )


def load_autoencoder(
    path_or_name: str | os.PathLike[str], *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Autoencoder:
    """Open an autoencoder.

    Args:
        path_or_name: A diffusers folder, a file of an `AutoencoderKL` in the layout of diffusers or of latent diffusion
            (VA-VAE), a short name, or a hub name that is in the Hugging Face cache.
        device: Where its weights go.
        dtype: Type of its weights; None: float32.

    Returns:
        An object whose `encode` maps images in [-1, 1], (B, 3, Y, X), to means of the posterior, unscaled, and whose
        `decode` maps such latents, (B, C, Y, X), to images in [-1, 1].

    Raises:
        ConfigError: If there is no such device or type.
        EnvironmentProblem: If it is not on this machine, or no usable autoencoder, or diffusers is not installed.
    """
    import torch

    from medcli.data.loaded_autoencoder import Autoencoder

    device, dtype = _placement(device, dtype)
    return Autoencoder.open(os.fspath(path_or_name), device=device, dtype=dtype or torch.float32)


def save(model: DiffusionTransformer, path: str | os.PathLike[str]) -> None:
    """Write a model as a medcli checkpoint, from which `load` rebuilds it without further arguments.

    The file is written under a temporary name and renamed; an existing one is replaced.

    Args:
        model: The model; its configuration goes into the header, mediator ladder included.
        path: The file, `.safetensors` by convention.

    Raises:
        CheckpointError: If a weight is NaN or infinite.
        ConfigError: If `model` is none of medcli.
        EnvironmentProblem: If the file can't be written or the disk is full.
    """
    from medcli.checkpoint.writer import save_checkpoint

    _check_model(model)
    names = () if model.origin is None else model.origin.class_names
    save_checkpoint(path, model.config, model.state_dict(), weights="model", class_names=names, force=True)


def count_macs(
    config_or_model: ModelConfig | DiffusionTransformer,
    *,
    resolution_px: int | None = None,
    num_mediators: int | None = None,
) -> float:
    """Multiply-adds of one forward pass of one image, in MACs (1 MAC = 2 FLOPs).

    Args:
        config_or_model: A `ModelConfig`, or a model carrying one as `.config`.
        resolution_px: Side of the square image; None keeps the configuration's.
        num_mediators: A count of the ladder; None the largest, 0 full attention everywhere.

    Raises:
        ConfigError: If the resolution or the count does not fit the model, or it is none.
    """
    from medcli.config import ModelConfig
    from medcli.cost.macs import closed_form_macs

    if isinstance(config_or_model, ModelConfig):
        config = config_or_model
    else:
        _check_model(config_or_model)
        config = config_or_model.config
    return closed_form_macs(config, resolution_px=resolution_px, num_mediators=num_mediators)


def _placement(device: str | torch.device, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype | None]:
    """Return the checked device and type of parameters.

    Raises:
        ConfigError: If no device has that name, or the type is none of torch's.
        EnvironmentProblem: If this machine lacks the device.
    """
    import torch

    from medcli.errors import ConfigError
    from medcli.runtime.device import pick_device

    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ConfigError(f"dtype {dtype!r} is not a type of torch", hint="pass torch.bfloat16, for example")
    return device if isinstance(device, torch.device) else pick_device(device), dtype


def _check_model(model: object) -> None:
    from medcli.model.backbone import DiffusionTransformer

    if not isinstance(model, DiffusionTransformer):
        raise _not_a("a model of medcli.load or medcli.new", model)


def _not_a(wanted: str, found: object) -> MedcliError:
    from medcli.errors import ConfigError

    return ConfigError(f"expected {wanted}, got {type(found).__name__} {str(found)[:60]!r}")

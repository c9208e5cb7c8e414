"""medcli: attention mediators for diffusion transformers. Importing this loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medcli.version import __version__

if TYPE_CHECKING:
    import os

    import torch

    from medcli.config import ModelConfig
    from medcli.model.amm import Amm
    from medcli.model.backbone import DiffusionTransformer
    from medcli.schedule.dynamic import DynamicSchedule

__all__ = ["DynamicSchedule", "ModelConfig", "__version__", "count_macs", "load", "new", "save"]


def __getattr__(name: str) -> object:
    """Import the classes when they are first used: help needs neither."""
    if name == "ModelConfig":
        from medcli.config import ModelConfig

        return ModelConfig
    if name == "DynamicSchedule":
        from medcli.schedule.dynamic import DynamicSchedule

        return DynamicSchedule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
        device: Where the parameters go.
        dtype: Parameter type; None keeps the file's.
        amm: Blocks whose attention is modulated by distance, or all of its settings; None leaves attention alone.

    Raises:
        CheckpointError: If the file is missing, damaged, ambiguous or not a model of these families.
        ConfigError: If modulation does not fit the model.
    """
    from medcli.model.amm import Amm
    from medcli.network import open_network
    from medcli.settings.network import NetworkSource

    modulation = amm if amm is None or isinstance(amm, Amm) else Amm(blocks=tuple(amm))
    source = NetworkSource(checkpoint=Path(path), family=family, heads=num_heads, weights=weights)
    return open_network(source).load(device=device, dtype=dtype, amm=modulation)


def new(config: ModelConfig, seed: int = 0) -> DiffusionTransformer:
    """Build a model with fresh weights, initialised as the reference code initialises them.

    Args:
        config: The architecture.
        seed: Random seed; the same seed gives the same weights. torch's global generator is left alone.

    Returns:
        The model in float32 on the CPU, in evaluation mode.
    """
    from medcli.model.backbone import fresh_model

    return fresh_model(config, seed).eval()


def save(model: DiffusionTransformer, path: str | os.PathLike[str]) -> None:
    """Write a model as a medcli checkpoint, from which `load` rebuilds it without further arguments.

    The file is written under a temporary name and renamed; an existing one is replaced.

    Args:
        model: The model; its configuration goes into the header, mediator ladder included.
        path: The file, `.safetensors` by convention.

    Raises:
        CheckpointError: If a weight is NaN or infinite.
        EnvironmentProblem: If the file can't be written or the disk is full.
    """
    from medcli.checkpoint.writer import save_checkpoint

    save_checkpoint(path, model.config, model.state_dict(), weights="model", force=True)


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
        ConfigError: If the resolution or the count does not fit the model.
    """
    from medcli.config import ModelConfig
    from medcli.cost.macs import closed_form_macs

    config = config_or_model if isinstance(config_or_model, ModelConfig) else config_or_model.config
    return closed_form_macs(config, resolution_px=resolution_px, num_mediators=num_mediators)

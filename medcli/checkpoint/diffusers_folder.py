"""Read a diffusers DiT: a pipeline folder, or its `transformer` folder alone. Source: reference-facts 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcli.checkpoint.keymap import from_diffusers
from medcli.checkpoint.tensor_record import TensorRecord
from medcli.config import ModelConfig
from medcli.errors import CheckpointError

# Published repositories carry the older spelling.
CLASS_NAMES = ("DiTTransformer2DModel", "Transformer2DModel")
WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class DiffusersConfig:
    """Facts of a folder's config.json that its tensors do not tell."""

    num_heads: int
    depth: int
    latent_size: int
    num_classes: int


def read_folder(
    path: Path, tensors_of: Callable[[Path], dict[str, TensorRecord]]
) -> tuple[DiffusersConfig, dict[str, TensorRecord]]:
    """Find a folder's configuration and weights and rename its tensors to upstream's names.

    Args:
        path: The folder.
        tensors_of: Lists the tensors of a weight file.

    Raises:
        CheckpointError: If it holds no DiT, or its configuration is incomplete.
    """
    folder = next((place for place in (path / "transformer", path) if (place / "config.json").is_file()), None)
    if folder is None:
        raise CheckpointError(
            f"{path} is a folder without a diffusers model (no transformer/config.json)",
            hint="pass a checkpoint file, or the folder of a diffusers DiT pipeline",
        )
    config = _parse(folder / "config.json")
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{folder} has no weights, expected {' or '.join(WEIGHT_FILES)}", hint="download the whole repository"
        )
    return config, from_diffusers(tensors_of(file), config.depth)


def _parse(path: Path) -> DiffusersConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["_class_name"] not in CLASS_NAMES or values.get("norm_type") != "ada_norm_zero":
            raise CheckpointError(
                f"{path.parent} holds a {values['_class_name']}, expected a class-conditional DiT (ada_norm_zero)",
                hint="medcli reads the layout of facebook/DiT-XL-2-256",
            )
        numbers = [values[key] for key in ("num_attention_heads", "num_layers", "sample_size", "num_embeds_ada_norm")]
        if not all(type(n) is int and n > 0 for n in numbers):
            raise ValueError(f"sizes {numbers} are not positive numbers")
        return DiffusersConfig(*numbers)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CheckpointError(
            f"{path} is not a diffusers configuration ({type(err).__name__}: {err})", hint="download the folder again"
        ) from err


def folder_config(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of a DiT, as current diffusers writes it."""
    return {
        "_class_name": CLASS_NAMES[0],
        "_diffusers_version": "0.31.0",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": config.head_dim,
        "dropout": 0.0,
        "in_channels": config.in_channels,
        "norm_elementwise_affine": False,
        # Upstream's epsilon; diffusers' default of 1e-5 is a deviation (reference-facts 2).
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": config.num_heads,
        "num_embeds_ada_norm": config.num_classes,
        "num_layers": config.depth,
        "out_channels": config.out_channels,
        "patch_size": config.patch_size,
        "sample_size": config.latent_size,
        "upcast_attention": False,
    }

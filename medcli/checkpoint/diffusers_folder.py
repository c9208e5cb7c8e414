"""Read a diffusers DiT: a pipeline folder, or its `transformer` folder alone. Source: reference-facts 2."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcli.checkpoint.class_names import names_of_id2label
from medcli.checkpoint.keymap import from_diffusers
from medcli.checkpoint.tensor_record import TensorRecord
from medcli.config import ModelConfig
from medcli.errors import CheckpointError, listed
from medcli.runtime import json_records
from medcli.runtime.json_records import InvalidJson

# Published repositories carry the older spelling.
CLASS_NAMES = ("DiTTransformer2DModel", "Transformer2DModel")
CONFIG, PIPELINE, SCHEDULER = "config.json", "model_index.json", "scheduler/scheduler_config.json"
ACTIVATION = "gelu-approximate"
"""The GELU in its tanh form."""
SCHEDULE = {
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "trained_betas": None,
}
"""Noise schedule and prediction of every DiT."""
MAX_JSON_BYTES = 16 * 2**20
SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class DiffusersConfig:
    """Facts of a folder's config.json that its tensors do not tell."""

    num_heads: int
    depth: int
    latent_size: int
    num_classes: int


@dataclass(frozen=True, slots=True)
class DiffusersFolder:
    """An open diffusers folder."""

    config: DiffusersConfig
    tensors: dict[str, TensorRecord]
    """Tensors under upstream's names."""
    autoencoder: Path | None
    """The autoencoder of the pipeline."""
    remarks: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    """Name of each class, if the pipeline has them."""


def read_folder(path: Path, tensors_of: Callable[[Path], dict[str, TensorRecord]]) -> DiffusersFolder:
    """Find a folder's configuration and weights and rename its tensors to upstream's names.

    Args:
        tensors_of: Lists the tensors of a weight file.

    Raises:
        CheckpointError: If it holds no DiT, or its configuration or weights are incomplete.
    """
    folder = next((place for place in (path / "transformer", path) if (place / CONFIG).is_file()), None)
    if folder is None:
        raise CheckpointError(
            f"{path} is a folder without a diffusers model (no transformer/config.json)",
            hint="pass a checkpoint file, or the folder of a diffusers DiT pipeline",
        )
    config = _parse(folder / CONFIG)
    file, remarks = weight_file(folder)
    tensors = sharded_tensors(file, tensors_of) if file.suffix == ".json" else tensors_of(file)
    has_autoencoder = folder != path and (path / "vae" / CONFIG).is_file()
    pipeline = read_json(path / PIPELINE) if folder != path and (path / PIPELINE).is_file() else {}
    if folder != path and (path / SCHEDULER).is_file():
        _require_schedule(path / SCHEDULER)
    return DiffusersFolder(
        config,
        from_diffusers(tensors, config.depth),
        path / "vae" if has_autoencoder else None,
        remarks,
        names_of_id2label(pipeline.get("id2label"), config.num_classes),
    )


def weight_file(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Choose the weight file or the index of shards; returns it and remarks. Safetensors come first."""
    for name in (
        *WEIGHT_FILES[:1],
        f"{WEIGHT_FILES[0]}.index.json",
        *WEIGHT_FILES[1:],
        f"{WEIGHT_FILES[1]}.index.json",
    ):
        if (folder / name).is_file():
            return folder / name, ()
    stem = WEIGHT_FILES[0].partition(".")[0]
    variants = [
        file
        for pattern in (f"{stem}.safetensors.index.*.json", f"{stem}.*.safetensors.index.json", f"{stem}.*.safetensors")
        for file in sorted(folder.glob(pattern))
        if not SHARD.search(file.name)
    ] or sorted(file for file in folder.glob(f"{stem}.*.bin") if not SHARD.search(file.name))
    if not variants and any(SHARD.search(file.name) for file in folder.glob(f"{stem}*")):
        raise CheckpointError(
            f"{folder} has shards of weights but not their index, {WEIGHT_FILES[0]}.index.json",
            hint="download the whole repository",
        )
    if not variants:
        raise CheckpointError(
            f"{folder} has no weights, expected {' or '.join(WEIGHT_FILES)}", hint="download the whole repository"
        )
    if len(variants) > 1:
        raise CheckpointError(
            f"{folder} has several variants of its weights ({listed([file.name for file in variants])})",
            hint="keep one of them in a folder of its own, beside config.json",
        )
    return variants[0], (f"the weights are those of {variants[0].name}",)


def sharded_tensors(index: Path, tensors_of: Callable[[Path], dict[str, TensorRecord]]) -> dict[str, TensorRecord]:
    """Read the tensors of all files that an index names."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} names no shards", hint="download the folder again")
    shards: dict[str, dict[str, TensorRecord]] = {}
    for name in dict.fromkeys(places.values()):
        file = index.parent / name
        if file.name != name or not file.is_file():
            raise CheckpointError(f"{index.parent} lacks {name[:100]}, which its index names", hint="download it again")
        shards[name] = tensors_of(file)
    if lost := next((tensor for tensor, name in places.items() if tensor not in shards[name]), None):
        raise CheckpointError(f"{places[lost]} lacks the tensor {lost[:100]}", hint="download the folder again")
    return {tensor: shards[name][tensor] for tensor, name in places.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of bounded size.

    Raises:
        CheckpointError: If it is too large, or no such JSON.
    """
    try:
        values = json_records.read_json(path, MAX_JSON_BYTES)
        if not isinstance(values, dict):
            raise InvalidJson("no object")
    except InvalidJson as err:
        raise CheckpointError(f"{path} is damaged ({err})", hint="download the folder again") from err
    return values


def _parse(path: Path) -> DiffusersConfig:
    try:
        values = read_json(path)
        if values["_class_name"] not in CLASS_NAMES or values.get("norm_type") != "ada_norm_zero":
            raise CheckpointError(
                f"{path.parent} holds a {values['_class_name']}, expected a class-conditional DiT (ada_norm_zero)",
                hint="medcli reads the layout of facebook/DiT-XL-2-256",
            )
        if (activation := values.get("activation_fn", ACTIVATION)) != ACTIVATION:
            raise CheckpointError(
                f"{path.parent} has the activation {str(activation)[:60]}, a DiT has {ACTIVATION} (GELU's tanh form)",
                hint="medcli has no other activation, and another one would change its images",
            )
        numbers = [values[key] for key in ("num_attention_heads", "num_layers", "sample_size", "num_embeds_ada_norm")]
        if not all(type(n) is int and n > 0 for n in numbers):
            raise ValueError(f"sizes {numbers} are not positive numbers")
        return DiffusersConfig(*numbers)
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise CheckpointError(
            f"{path} is not a diffusers configuration ({type(err).__name__}: {err})", hint="download the folder again"
        ) from err


def _require_schedule(path: Path) -> None:
    """Refuse a pipeline whose network was trained on another noise schedule, or predicts something else.

    Raises:
        CheckpointError: Naming the setting.
    """
    values = read_json(path)
    flow = {"its scheduler": kind} if "Flow" in (kind := str(values.get("_class_name", ""))[:60]) else {}
    others = flow | {name: values[name] for name, usual in SCHEDULE.items() if values.get(name, usual) != usual}
    if others:
        name, value = next(iter(others.items()))
        raise CheckpointError(
            f"{path.parent.parent.name or path}: {name} is {str(value)[:60]}, which medcli's DiT does not have",
            hint="if its network is a DiT all the same, name the folder transformer alone",
        )


def pipeline_files(config: ModelConfig, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the JSON files of a DiT's pipeline by path; its autoencoder is passed to diffusers when it is opened."""
    version = {"_diffusers_version": "0.31.0"}
    parts = {"scheduler": "DDIMScheduler", "transformer": CLASS_NAMES[0], "vae": "AutoencoderKL"}
    return {
        PIPELINE: {
            "_class_name": "DiTPipeline",
            **version,
            **{name: ["diffusers", kind] for name, kind in parts.items()},
            **({"id2label": {str(number): name for number, name in enumerate(class_names)}} if class_names else {}),
        },
        SCHEDULER: {
            "_class_name": "DDIMScheduler",
            **version,
            **SCHEDULE,
            "clip_sample": False,
            "set_alpha_to_one": True,
            "steps_offset": 0,
        },
        "transformer/config.json": folder_config(config),
    }


def folder_config(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of a DiT, as current diffusers writes it."""
    return {
        "_class_name": CLASS_NAMES[0],
        "_diffusers_version": "0.31.0",
        "activation_fn": ACTIVATION,
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

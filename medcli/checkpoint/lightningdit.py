"""Read what is LightningDiT's own: its parts, settings, rotary tables and statistics of latents. Torch-free.

Source: LightningDiT (arXiv 2501.01423).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.checkpoint.layouts import RawCheckpoint, file_content
from medcli.checkpoint.tensor_record import FLOAT_DTYPES, TensorRecord, computed, from_bytes
from medcli.checkpoint.training_args import training_args
from medcli.config import SD_CHANNELS, SD_SCALE, VAVAE, VAVAE_CHANNELS, ModelConfig
from medcli.errors import CheckpointError
from medcli.model.layout import blocks
from medcli.model.part_kinds import PLAIN_MLP, PLAIN_NORM, mlp_of, norm_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

FAMILY = "lightningdit"
"""Value of `--family`; the model is a SiT with other parts."""
ROTARY = "feat_rope.freqs_"
"""Prefix of the rotary tables, which follow from the configuration."""
ASSUMED: Mapping[bool, Mapping[str, Any]] = {
    False: {"model_type": "LightningDiT", "latent_norm": True, "latent_multiplier": 1.0, "model_name": "vavae"},
    True: {"model_type": "LightningDiT", "downsample_ratio": 8},
}
"""Settings of a file that has none, by whether its latents have `SD_CHANNELS`: those of the published files."""
STATISTICS = "latents_stats.pt"
STRIDE = 16
"""Image pixels of a latent pixel where the settings do not say."""
MAX_YAML_BYTES = 1 << 20
MAX_STATISTICS = 1 << 16
TABLE_TOLERANCE = 2e-2
"""Difference of a rotary table from ours, rounding to bfloat16 included."""
Shapes = Mapping[str, tuple[int, ...]]


def parts_of(shapes: Shapes) -> dict[str, Any]:
    """Return the configuration's fields of the parts that the first block has; empty for a plain DiT or SiT."""
    width, first = (*shapes.get("x_embedder.proj.weight", ()), 0)[0], "blocks.0"
    fields: dict[str, Any] = {}
    if (norm := norm_of(shapes, f"{first}.norm1")) != PLAIN_NORM:
        fields["norm"] = norm
    if (mlp := mlp_of(shapes, f"{first}.mlp")) != PLAIN_MLP:
        fields["mlp"] = mlp
    if f"{first}.attn.q_norm.weight" in shapes:
        fields["qk_norm"] = True
    if f"{ROTARY}cos" in shapes:
        fields["rope"] = True
    if shapes.get(f"{first}.adaLN_modulation.1.weight", ())[:1] == (4 * width,):
        fields["has_shift"] = False
    return fields


def is_lightningdit(raw: RawCheckpoint, shapes: Shapes) -> bool:
    """Check for LightningDiT's blocks or settings; a q/k norm alone is REPA's as well."""
    is_told = "use_swiglu" in raw.args or str(raw.args.get("model_type", "")).startswith("LightningDiT")
    return is_told or bool(set(parts_of(shapes)) - {"qk_norm"})


def head_width(shapes: Shapes) -> int | None:
    """Return the channels of a head, which rotary tables and norms of queries show; None if there are neither."""
    for name in (f"{ROTARY}cos", "blocks.0.attn.q_norm.weight"):
        if shapes.get(name):
            return shapes[name][-1]
    return None


def with_settings(raw: RawCheckpoint, shapes: Shapes, family: str | None) -> RawCheckpoint:
    """Add training settings to a file of LightningDiT that has none: those of a yaml file beside it, else assumed ones.

    Args:
        shapes: Shapes of its tensors.
        family: Value of `--family`; None: not given.
    """
    if raw.args or raw.header is not None or raw.path.is_dir():
        return raw
    parts = parts_of(shapes)
    files = sorted(raw.path.parent.glob("*.yaml"))
    found = [(file, args) for file in files if (args := _yaml_args(file, shapes, parts))]
    named = [pair for pair in found if pair[0].stem == raw.path.stem] or found
    if len(named) != 1 and (family == FAMILY or is_lightningdit(raw, shapes)):
        channels = (*shapes.get("x_embedder.proj.weight", ()), 0, 0)[1]
        remark = "the normalisation of its latents is unknown: the published one is assumed; put its yaml beside it"
        return replace(raw, args=ASSUMED[channels == SD_CHANNELS], remarks=(*raw.remarks, remark))
    if len(named) != 1:
        return raw
    file, args = named[0]
    return replace(raw, args=args, remarks=(*raw.remarks, f"its settings are those of {file.name} beside it"))


def _yaml_args(file: Path, shapes: Shapes, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a yaml file that describe these tensors; empty for any other file."""
    import yaml  # type: ignore[import-untyped]

    try:
        if not file.is_file() or file.stat().st_size > MAX_YAML_BYTES:  # a device never ends
            return {}
        args = training_args({"config": yaml.safe_load(file.read_text(encoding="utf-8"))})
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    described = {
        "use_rmsnorm": "norm" in parts,
        "use_swiglu": "mlp" in parts,
        "use_rope": "rope" in parts,
        "use_qknorm": "qk_norm" in parts,
        "wo_shift": "has_shift" in parts,
    }
    channels = shapes.get("x_embedder.proj.weight", (0, 0))[1:2]
    fits = all(bool(args.get(name, False)) is held for name, held in described.items())
    return args if "model_type" in args and fits and (args.get("in_chans", 4),) == channels else {}


def latent_fields(raw: RawCheckpoint, channels: int) -> dict[str, Any]:
    """Return the configuration's fields of the latents that LightningDiT's settings name.

    The statistics of normalised latents are those of a file beside the checkpoint.
    """
    args = raw.args
    stride, factor = args.get("downsample_ratio", STRIDE), args.get("latent_multiplier", SD_SCALE)
    is_number = type(factor) in (int, float) and 0 < factor < math.inf
    if type(stride) is not int or not 0 < stride <= 1024 or not is_number:
        raise CheckpointError(
            f"{raw.path.name} names latents of stride {stride!r} and multiplier {factor!r}", hint="correct its config"
        )
    fields: dict[str, Any] = {"latent_downsample": stride, "latent_scale": float(factor)}
    if str(args.get("model_name", "")).startswith("vavae") and channels == VAVAE_CHANNELS:
        fields["autoencoder"] = VAVAE
    file = raw.path.parent / STATISTICS
    if args.get("latent_norm") and file.is_file():
        mean, std = read_statistics(file, channels)
        fields |= {"latent_mean": mean, "latent_std": std}
    return fields


def sampling_remark(args: Mapping[str, Any]) -> str | None:
    """Return the flags that sample as the file's own settings do; None if it has none."""
    if args.get("mode") != "ODE" or "num_sampling_steps" not in args:
        return None
    words = [f"--sampler ode --solver {args.get('sampling_method', 'euler')} --steps {args['num_sampling_steps']}"]
    if shift := args.get("timestep_shift"):
        words.append(f"--time-shift {shift}")
    if args.get("cfg_scale", 1) != 1:
        words.append(f"--cfg-scale {args['cfg_scale']} --cfg-interval {args.get('cfg_interval_start', 0)},1")
    return f"its settings sample with {' '.join(words)}"[:300]


def check_rotary(tensors: Mapping[str, TensorRecord], config: ModelConfig, source: str) -> None:
    """Refuse rotary tables of other angles than ours, which are used instead of the file's.

    Raises:
        CheckpointError: Naming the table.
    """
    import numpy as np

    for name, record in rotary_records(config).items():
        held = tensors.get(name)
        if held is None:
            continue
        fits = held.shape == record.shape and held.dtype in FLOAT_DTYPES
        if fits:
            ours, theirs = (from_bytes(one.read(), one.dtype, one.shape) for one in (record, held))
            fits = bool(np.abs(ours - theirs).max() < TABLE_TOLERANCE)
        if not fits:
            raise CheckpointError(
                f"{source}: {name} is not of a grid of {config.tokens_side} x {config.tokens_side} tokens with "
                f"whole-number positions",
                hint="medcli computes rotary tables itself, and has no other",
            )


def rotary_records(config: ModelConfig) -> dict[str, TensorRecord]:
    """Return the rotary tables by their names in official files; none for other networks."""
    if not config.rope:
        return {}
    block = blocks(config)[0]
    shape = (block.num_tokens, config.head_dim)

    def table(place: int) -> Callable[[], NDArray[np.floating]]:
        def make() -> NDArray[np.floating]:
            from medcli.model.grid_tables import rotation_tables

            return rotation_tables(config.tokens_side, config.head_dim, scale=config.position_scale)[place]

        return make

    return {
        f"{ROTARY}{kind}": computed(f"{ROTARY}{kind}", "F32", shape, table(n)) for n, kind in enumerate(("cos", "sin"))
    }


def read_statistics(path: Path, channels: int | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read the mean and standard deviation of each latent channel from `latents_stats.pt`.

    Args:
        channels: Channels of the latents; None: any.

    Raises:
        CheckpointError: If it holds something else, or statistics of other channels.
    """
    file = file_content(path)
    content = file.content if isinstance(file.content, Mapping) else {}
    found = []
    for name in ("mean", "std"):
        record = file.record(name, content[name]) if hasattr(content.get(name), "storage") else None
        if record is None or record.num_elements > MAX_STATISTICS or record.dtype not in FLOAT_DTYPES:
            raise CheckpointError(f"{path} holds no mean and std of latents", hint="make or copy it again")
        found.append(tuple(float(value) for value in from_bytes(record.read(), record.dtype, (-1,))))
    mean, std = found
    if channels is not None and not len(mean) == len(std) == channels:
        raise CheckpointError(
            f"{path} is of {len(mean)} latent channels, expected {channels}", hint="name the statistics of this model"
        )
    if not all(map(math.isfinite, mean)) or not all(0 < value < math.inf for value in std):
        raise CheckpointError(f"{path} holds statistics that are not finite and positive", hint="make it again")
    return mean, std


BATCH_NORM = "bn."
"""Prefix of the statistics of latents in files of REPA-E."""


def batch_norm_statistics(tensors: Mapping[str, TensorRecord]) -> dict[str, Any]:
    """Return the latents' statistics that REPA-E keeps as a BatchNorm; empty if there is none."""
    mean, variance = tensors.get("bn.running_mean"), tensors.get("bn.running_var")
    if mean is None or variance is None or mean.num_elements > MAX_STATISTICS or mean.shape != variance.shape:
        return {}
    if mean.dtype not in FLOAT_DTYPES or variance.dtype not in FLOAT_DTYPES:
        raise CheckpointError("bn.running_mean or running_var is not of floating point numbers", hint="copy it again")
    values = [from_bytes(record.read(), record.dtype, (-1,)).tolist() for record in (mean, variance)]
    if not all(0 < value < math.inf for value in values[1]):
        raise CheckpointError("bn.running_var holds values that are no variances", hint="copy the file again")
    return {"latent_mean": tuple(values[0]), "latent_std": tuple(map(math.sqrt, values[1]))}

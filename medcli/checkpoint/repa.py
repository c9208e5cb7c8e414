"""Read checkpoints of REPA and REPA-E as SiT: without projectors, with time turned round. Torch-free.

REPA's time runs from data (0) to noise (1). SiT's field is v'(x, t) = -v(x, 1 - t). The sinusoids of 1 - t are a fixed
rotation of those of t, so the first layer of the timestep embedder absorbs the change of time, and the sign of the
final layer that of the field: the result is a plain SiT, exact up to rounding. Source: REPA (arXiv 2410.06940).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from medcli.checkpoint.keymap import block_of
from medcli.checkpoint.layouts import RawCheckpoint
from medcli.checkpoint.tensor_record import TensorRecord, computed, from_bytes
from medcli.checkpoint.training_args import is_repa
from medcli.errors import CheckpointError
from medcli.model.layout import FREQUENCY_FEATURES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FAMILY = "repa"
"""Value of `--family` for files that do not tell."""
PROJECTOR = re.compile(r"projectors\.\d+\.")
LATE_BLOCK = re.compile(r"decoder_blocks\.(\d+)\.")
"""Blocks after the encoder, in older files."""
NAMED = re.compile(r"(?<![a-z])(i?repa(-?e)?|rae)(?![a-z])")
"""A word in the name of a file whose time may run the other way."""
PUBLISHED_NAME = "last.pt"
TIME_WEIGHT = "t_embedder.mlp.0.weight"
NEGATED = ("final_layer.linear.weight", "final_layer.linear.bias")
PATHS = {"linear": "Linear", "cosine": "GVP"}
"""SiT's names of REPA's paths."""
DIFFUSION_FORMS = {"Linear": "sigma", "GVP": "linear"}
"""REPA's SDE adds noise by w = t in its own time, on both paths."""


def as_sit(
    raw: RawCheckpoint, tensors: Mapping[str, TensorRecord], family: str | None
) -> tuple[RawCheckpoint, Mapping[str, TensorRecord]]:
    """Turn a checkpoint of REPA into one of SiT; any other is returned as it is.

    Args:
        tensors: The weight set to read.
        family: Value of `--family`; None: not given.

    Raises:
        CheckpointError: If the flag contradicts the file, or the file may be one of REPA and nothing tells.
    """
    if raw.header is not None or raw.folder_config is not None:
        return raw, tensors
    if proof := _proof(raw, tensors):
        if family not in (None, FAMILY):
            raise CheckpointError(f"{raw.path.name} is no {family}: {proof}", hint="leave --family out")
    elif family is None and (reason := _doubt(raw, tensors)):
        raise CheckpointError(
            f"can't tell whether {raw.path.name} is a SiT or REPA's, whose time runs the other way: {reason}",
            hint="pass --family repa or --family sit",
        )
    if not proof and family != FAMILY:
        return raw, tensors
    kept = {name: record for name, record in tensors.items() if not PROJECTOR.match(name)}
    remark = "read as REPA's: its time, from image to noise, is turned round exactly"
    if num_left := len(tensors) - len(kept):
        remark = f"{num_left} tensors of REPA's projectors are left out; {remark}"
    args = _args(raw)
    form = DIFFUSION_FORMS.get(str(args.get("path_type", "Linear")))
    turned = replace(
        raw,
        args=args,
        sampling={"cfg_channels": "all", **({"diffusion_form": form} if form else {})},
        remarks=(*raw.remarks, remark),
        left_out=tuple(name for name in tensors if name not in kept),
        rewritten=(TIME_WEIGHT, *NEGATED),
    )
    return turned, turned_round(_renumbered(kept, raw))


def _proof(raw: RawCheckpoint, tensors: Mapping[str, TensorRecord]) -> str:
    """Return what shows that a file is REPA's; empty: nothing."""
    if any(PROJECTOR.match(name) for name in tensors):
        return "it has REPA's projectors"
    return "its training settings are REPA's" if is_repa(raw.args) else ""


def _doubt(raw: RawCheckpoint, tensors: Mapping[str, TensorRecord]) -> str:
    """Return a reason to take a file for REPA's that has lost its projectors and settings; empty: none."""
    name = raw.path.name.lower()
    if NAMED.search(name) or name == PUBLISHED_NAME:
        return f"it is called {raw.path.name}"
    if any(LATE_BLOCK.match(key) for key in tensors):
        return "it has decoder_blocks, as older files of REPA do"
    if any(key.startswith("bn.") for key in tensors):
        return "it has the statistics of latents that REPA-E keeps"
    if "steps" in raw.keys and not raw.args:
        return "it counts steps, as REPA's training files do"
    has_norm = any(key.endswith(".attn.q_norm.bias") for key in tensors)
    if has_norm and not any(".norm1." in key or key.startswith("feat_rope.") for key in tensors) and not raw.args:
        return "it normalises queries and keys"
    return ""


def _args(raw: RawCheckpoint) -> dict[str, Any]:
    """Return the training settings in SiT's words; those that are not known are kept."""
    args = dict(raw.args)
    if args.get("path_type", "linear") in PATHS:
        args["path_type"] = PATHS[args.get("path_type", "linear")]
    if args.get("prediction") == "v":
        args["prediction"] = "velocity"
    return args


def _renumbered(tensors: Mapping[str, TensorRecord], raw: RawCheckpoint) -> dict[str, TensorRecord]:
    """Rename `decoder_blocks.i` of older files to the blocks behind the encoder's."""
    if not any(LATE_BLOCK.match(name) for name in tensors):
        return dict(tensors)
    numbers = [number for name in tensors if (number := block_of(name)) is not None and number < len(tensors)]
    first = 1 + max(numbers, default=-1)
    named = raw.args.get("encoder_depth")
    if type(named) is int and named != first:
        raise CheckpointError(
            f"{raw.path.name} has {first} blocks before decoder_blocks, its training settings say {named}",
            hint="copy or download the file again",
        )

    def new_name(name: str) -> str:
        found = LATE_BLOCK.match(name)
        return name if found is None else f"blocks.{first + int(found[1])}.{name[found.end() :]}"

    return {new_name(name): record.renamed(new_name(name)) for name, record in tensors.items()}


def turned_round(tensors: Mapping[str, TensorRecord]) -> dict[str, TensorRecord]:
    """Return the tensors of -v(x, 1 - t) from those of v(x, t): applied twice, the network itself."""
    result = dict(tensors)
    weight = tensors.get(TIME_WEIGHT)
    if weight is not None and weight.shape[1:] == (FREQUENCY_FEATURES,):
        result[TIME_WEIGHT] = computed(weight.name, weight.dtype, weight.shape, partial(_of_reversed_time, weight))
    for name in NEGATED:
        if (record := tensors.get(name)) is not None:
            result[name] = computed(record.name, record.dtype, record.shape, partial(_negated, record))
    return result


def _of_reversed_time(weight: TensorRecord) -> NDArray[np.floating]:
    """Rotate the columns of cosines and sines: cos(f (1 - t)) = cos f cos(f t) + sin f sin(f t)."""
    import numpy as np

    values = from_bytes(weight.read(), weight.dtype, weight.shape).astype(np.float64)
    half = FREQUENCY_FEATURES // 2
    exponent_K = np.arange(half, dtype=np.float32) / np.float32(half)
    frequency_K = np.exp(np.float32(-math.log(10000.0)) * exponent_K).astype(np.float64)
    of_cos, of_sin = values[:, :half], values[:, half:]
    cos_K, sin_K = np.cos(frequency_K), np.sin(frequency_K)
    return np.concatenate([of_cos * cos_K + of_sin * sin_K, of_cos * sin_K - of_sin * cos_K], axis=1)


def _negated(record: TensorRecord) -> NDArray[np.floating]:
    return -from_bytes(record.read(), record.dtype, record.shape)

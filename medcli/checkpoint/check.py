"""Check a set of tensors against a configuration; missing, unexpected and misshapen ones are named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from medcli.checkpoint.tensor_record import FLOAT_DTYPES, TensorRecord, describe_tensor
from medcli.config import ModelConfig
from medcli.errors import CheckpointError, listed
from medcli.model.layout import position_tables, tensor_shapes

MAX_SHOWN = 120
"""Characters of a name that are shown; a damaged file may hold any."""


def check_content(tensors: Mapping[str, TensorRecord], config: ModelConfig, source: str) -> None:
    """Refuse tensors that do not fit the model.

    Raises:
        CheckpointError: Naming them.
    """
    expected = tensor_shapes(config)
    # Fixed position tables follow from the configuration, so a file may lack them.
    missing = [name for name in expected if name not in tensors and name not in position_tables(config)]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} {tensors[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    groups = {"missing": missing, "unexpected": unexpected, "wrong shape": misshapen}
    problems = [
        f"{len(names)} {title} ({listed([name[:MAX_SHOWN] for name in names], 3)})"
        for title, names in groups.items()
        if names
    ]
    if problems:
        is_whole = _holds(tensors, replace(config, norm="layer", mlp="gelu", rope=False, qk_norm=False, has_shift=True))
        is_other = is_whole or (unexpected and not missing and not misshapen)
        if is_other and config.family == "mdtv2":
            raise _first_version(source, f"it has {len(unexpected)} tensors more than an MDTv2")
        raise CheckpointError(
            f"{source} does not hold the tensors of a {_title(config)}: {'; '.join(problems)}",
            hint="all of that model is there and more, so it is another architecture"
            if is_other
            else "download or copy the file again, or pass the checkpoint of another model",
        )
    others = [
        describe_tensor(record) + f" {name}" for name, record in tensors.items() if record.dtype not in FLOAT_DTYPES
    ]
    if others:
        raise CheckpointError(
            f"{source} has weights that are not floating point numbers ({listed(others, 3)})",
            hint="convert the original, unquantised checkpoint",
        )


def _holds(tensors: Mapping[str, TensorRecord], config: ModelConfig) -> bool:
    """Check that all tensors of a model are there, whatever else is."""
    tables = position_tables(config)
    return all(
        name in tables or (name in tensors and tensors[name].shape == shape)
        for name, shape in tensor_shapes(config).items()
    )


def refuse_first_mdt(names: Iterable[str], source: str) -> None:
    """Refuse a file of MDT's first version, whose encoder is one list of blocks.

    Raises:
        CheckpointError: If it is one.
    """
    if any(name.startswith("en_blocks.") for name in names):
        raise _first_version(source, "its encoder is one list of blocks, without skips")


REG_TENSOR = "cls_projectors2.weight"


def refuse_reg(names: Iterable[str], source: str) -> None:
    """Refuse a file of REG, a SiT that denoises a class token of an image encoder beside the latent.

    Raises:
        CheckpointError: If it is one.
    """
    if REG_TENSOR in names:
        raise CheckpointError(
            f"{source} is of REG: it has {REG_TENSOR}, for a class token that is denoised beside the latent",
            hint="medcli runs no class token; use a checkpoint of SiT or REPA",
        )


def _first_version(source: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{source} is of MDT's first version, not an MDTv2: {reason}",
        hint="medcli reads MDTv2 (mdt_xl2_v2_ckpt.pt); the first version is another network",
    )


def _title(config: ModelConfig) -> str:
    return f"{config.family} of width {config.hidden_size} and depth {config.depth}"

"""Write a model in other layouts: upstream's `.pt` state dict, or a diffusers DiT folder. Torch-free."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medcli.checkpoint.diffusers_folder import PIPELINE, WEIGHT_FILES, pipeline_files
from medcli.checkpoint.keymap import OFFSET_INDEX, to_diffusers
from medcli.checkpoint.lightningdit import rotary_records
from medcli.checkpoint.pickle_values import STORAGE_DTYPES
from medcli.checkpoint.reader import position_records
from medcli.checkpoint.stream import Sink, copy_records
from medcli.checkpoint.tensor_record import TensorRecord, computed, from_bytes
from medcli.checkpoint.writer import write_safetensors
from medcli.config import ModelConfig
from medcli.config_checks import has_parts
from medcli.errors import ConfigError, EnvironmentProblem
from medcli.model.layout import blocks, side_block
from medcli.presets import family_title
from medcli.runtime.files import atomic_folder, atomic_path
from medcli.runtime.reporting import Reporter

RECORD_ALIGNMENT = 64
"""torch.save starts each record at a multiple of this many bytes."""


def write_official(
    path: Path,
    records: Mapping[str, TensorRecord],
    config: ModelConfig,
    *,
    source: str,
    force: bool,
    reporter: Reporter,
) -> Path:
    """Write a flat state dict as torch.save would, readable with `torch.load(path, weights_only=True)`.

    Args:
        records: The tensors, in file order.
        source: What to call the input in errors.
        reporter: Told the tensors finished.

    Returns:
        The file.

    Raises:
        ConfigError: If the model has a ladder of several counts, which upstream has no names for.
        CheckpointError: If a weight is NaN or infinite.
        EnvironmentProblem: If the place can't be written to or is full.
    """
    if len(config.mediators) > 1:
        raise ConfigError(
            f"the official layout holds one mediator count, this model has {', '.join(map(str, config.mediators))}",
            hint=f"pass --mediators {config.mediators[-1]}, or none",
        )
    records = {**records, **offset_indices(config), **rotary_records(config)}
    with atomic_path(path, force=force) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _write_record(archive, "archive/data.pkl", pickled_state_dict(records))
        _write_record(archive, "archive/byteorder", b"little")
        for number, record in enumerate(records.values()):
            member_info = _record(archive, f"archive/data/{number}", record.nbytes)
            with archive.open(member_info, "w") as member, Sink(member.write) as sink:
                copy_records([record], [sink], lambda _: None, source=source)
            reporter.progress(number + 1, len(records), "tensors")
        _write_record(archive, "archive/version", b"3\n")
    return path


def offset_indices(config: ModelConfig) -> dict[str, TensorRecord]:
    """Return the buffers of the MDTv2 code: the table row of each pair of tokens. See edt-facts 5."""
    if config.family != "mdtv2":
        return {}
    names = [f"{block.name}.{OFFSET_INDEX}" for block in (*blocks(config), side_block(config))]
    size = config.num_tokens
    return {name: computed(name, "I64", (size, size), partial(_offset_index, config.tokens_side)) for name in names}


def _offset_index(side: int) -> Any:
    from medcli.model.grid_tables import offset_index

    return offset_index(side)


def _record(archive: zipfile.ZipFile, name: str, nbytes: int) -> zipfile.ZipInfo:
    """Return a zip record without compression or date, its data aligned by padding as torch does it."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.file_size = nbytes
    end = archive.start_dir + 30 + len(name) + 4
    padding = -end % RECORD_ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return info


def _write_record(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    with archive.open(_record(archive, name, len(data)), "w") as member:
        member.write(data)


def pickled_state_dict(records: Mapping[str, TensorRecord]) -> bytes:
    """Return the pickle that torch.save makes of an OrderedDict of contiguous tensors, storages numbered in order.

    Written by hand because pickling a reference to a torch function takes torch.
    """
    storages = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
    ordered_dict = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    parts = [pickle.PROTO + b"\x02", ordered_dict, pickle.MARK]
    for number, (name, record) in enumerate(records.items()):
        strides = [1]
        for size in reversed(record.shape[1:]):
            strides.insert(0, strides[0] * size)
        storage = [_text("storage"), _global("torch", storages[record.dtype]), _text(str(number)), _text("cpu")]
        parts += [
            _text(name),
            _global("torch._utils", "_rebuild_tensor_v2"),
            pickle.MARK,
            _tuple([*storage, _whole(record.num_elements)]) + pickle.BINPERSID,
            _whole(0),
            _tuple([_whole(size) for size in record.shape]),
            _tuple([_whole(stride) for stride in strides[: len(record.shape)]]),
            pickle.NEWFALSE,
            ordered_dict,
            pickle.TUPLE + pickle.REDUCE,
        ]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _whole(value: int) -> bytes:
    data = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(data)]) + data


def _tuple(items: list[bytes]) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def write_diffusers(
    path: Path,
    records: Mapping[str, TensorRecord],
    config: ModelConfig,
    *,
    source: str,
    force: bool,
    reporter: Reporter,
    class_names: Sequence[str] = (),
) -> Path:
    """Write a folder that diffusers' `DiTPipeline` opens beside an autoencoder.

    Args:
        path: The folder to make.
        records: The tensors, under upstream's names.
        source: What to call the input in errors.
        force: Whether an existing folder may be replaced.
        reporter: Told the tensors finished.
        class_names: Name of each class; empty if they have none.

    Returns:
        The weight file.

    Raises:
        ConfigError: If diffusers has no such model.
        CheckpointError: If a weight is NaN or infinite.
        EnvironmentProblem: If the place can't be written to or is full.
    """
    _refuse_what_diffusers_lacks(records, config)
    with atomic_folder(path, force=force, mark=PIPELINE) as temporary:
        folder = temporary / "transformer"
        for name, content in pipeline_files(config, class_names).items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        tensors = to_diffusers(records, config.depth)
        with _named(temporary, path):
            write_safetensors(
                folder / WEIGHT_FILES[0],
                tensors.values(),
                {"format": "pt"},
                source=source,
                digest=False,
                reporter=reporter,
            )
    return path / "transformer" / WEIGHT_FILES[0]


@contextmanager
def _named(temporary: Path, path: Path) -> Iterator[None]:
    """Replace the temporary folder's name by the user's in error messages."""
    try:
        yield
    except EnvironmentProblem as err:
        raise EnvironmentProblem(err.message.replace(str(temporary), str(path)), hint=err.hint) from err


def _refuse_what_diffusers_lacks(records: Mapping[str, TensorRecord], config: ModelConfig) -> None:
    obstacles = {
        f"its family is {family_title(config.family)}": config.family != "dit",
        f"it has mediators ({', '.join(map(str, config.mediators))})": bool(config.mediators),
        "it has compressed queries and keys": config.qk_ratio != 1.0,
        "it has parts of LightningDiT or REPA": has_parts(config),
        "it has no null class": not config.has_null_class,
        f"its MLP ratio is {config.mlp_ratio}, not 4": config.mlp_ratio != 4.0,
        "its position table is not the standard one": config.family == "dit"
        and not _has_standard_positions(records["pos_embed"], config),
    }
    found = [reason for reason, holds in obstacles.items() if holds]
    if found:
        raise ConfigError(
            f"diffusers' DiT can't hold this model: {'; '.join(found)}", hint="use --to medcli or --to official"
        )


def _has_standard_positions(record: TensorRecord, config: ModelConfig) -> bool:
    import numpy as np

    standard = from_bytes(
        position_records(replace(config, positions_side=0), "F32")["pos_embed"].read(), "F32", record.shape
    )
    # bfloat16 keeps 8 bits of values up to 1.
    return bool(np.abs(from_bytes(record.read(), record.dtype, record.shape) - standard).max() < 2**-7)

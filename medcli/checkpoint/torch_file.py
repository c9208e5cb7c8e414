"""Read the two formats of `torch.save`: a zip of raw records (torch >= 1.6) and the older sequence of pickles."""

from __future__ import annotations

import io
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medcli.checkpoint.pickle_values import TensorRef
from medcli.checkpoint.tensor_record import ITEM_SIZES, Made, Region, TensorRecord, read_piece, read_region, stored
from medcli.checkpoint.unpickle import MAX_PICKLE_BYTES, safe_load
from medcli.errors import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DAMAGED = "download or copy the file again"


ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(ValueError, RuntimeError, NotImplementedError, OverflowError, OSError),
)
"""Errors of the library for damaged, encrypted or unusually compressed files."""
MAX_DIRECTORY_BYTES = 64 * 2**20
"""A zip's directory has about 70 bytes a record."""
MAX_WORD_BYTES = 64
"""Size of records that hold one word, such as `little`."""


@dataclass(frozen=True, slots=True)
class TorchFile:
    """Contents of a torch file: its object, and the byte ranges of its storages."""

    path: Path
    content: Any
    """Containers and values, with a `TensorRef` for each tensor."""
    storages: Mapping[str, Region]

    def record(self, name: str, ref: TensorRef) -> TensorRecord:
        """Return the record of a tensor.

        Raises:
            CheckpointError: If the tensor reaches beyond its storage.
        """
        region = self.storages.get(ref.storage.key)
        size = ITEM_SIZES[ref.storage.dtype]
        last = ref.offset + sum((n - 1) * step for n, step in zip(ref.shape, ref.stride, strict=True))
        reach = (last + 1) * size if all(ref.shape) else 0
        # An expanded tensor (stride 0) may claim any size; no weight is larger than its storage.
        if region is None or max(reach, math.prod(ref.shape) * size) > region.nbytes:
            raise CheckpointError(f"{self.path.name}: tensor {name} reaches beyond the file's data", hint=DAMAGED)
        if _is_contiguous(ref):
            if math.prod(ref.shape) * size == region.nbytes:
                return TensorRecord(name, ref.storage.dtype, ref.shape, (region,))
            return stored(name, ref.storage.dtype, ref.shape, self.path, region.offset + ref.offset * size)
        return _strided(name, ref, Region(self.path, region.offset + ref.offset * size, reach - ref.offset * size))


def read_zip(path: Path) -> TorchFile:
    """Read a torch zip: its pickle, and the offsets of its records.

    Raises:
        CheckpointError: If the zip is cut short, compressed, or not made by torch.
    """
    try:
        _require_small_directory(path)
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            return _read_archive(path, archive, file)
    except PermissionError:
        raise
    # A damaged zip directory fails inside the library in many ways, seeks before the start of the file included.
    except ZIP_ERRORS as err:
        raise CheckpointError(f"{path.name} is a damaged or truncated zip file ({err})", hint=DAMAGED) from err


def _require_small_directory(path: Path) -> None:
    """Refuse a directory too large to be read into memory; its size is in a record at the file's end."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 98))
        tail = file.read()
    wide, plain = tail.rfind(b"PK\x06\x06"), tail.rfind(b"PK\x05\x06")
    at, size, form = (wide, 40, "<Q") if wide >= 0 else (plain, 12, "<L")
    if at >= 0 and len(tail) >= at + size + 8 and struct.unpack_from(form, tail, at + size)[0] > MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(f"its directory has more than {MAX_DIRECTORY_BYTES >> 20} MiB")


def _read_archive(path: Path, archive: zipfile.ZipFile, file: BinaryIO) -> TorchFile:
    records = {info.filename: info for info in archive.infolist()}
    if len(records) < len(archive.infolist()):
        raise zipfile.BadZipFile("two records have one name")
    pickle_name = next((name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")), None)
    if pickle_name is None:
        raise CheckpointError(
            f"{path.name} is a zip file but not a torch checkpoint (no data.pkl inside)",
            hint="unpack it and pass the checkpoint inside",
        )
    folder, end = pickle_name.removesuffix("data.pkl"), path.stat().st_size
    if records[pickle_name].file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path.name} has a pickle of more than {MAX_PICKLE_BYTES >> 20} MiB", hint=DAMAGED)
    byteorder = records.get(f"{folder}byteorder")
    if byteorder is not None and byteorder.file_size > MAX_WORD_BYTES:
        raise zipfile.BadZipFile(f"its byteorder has {byteorder.file_size} bytes")
    if byteorder is not None and _content(path, archive, file, byteorder, end) != b"little":
        raise CheckpointError(f"{path.name} was saved on a big-endian machine", hint="save it again on a usual machine")
    content, _ = safe_load(io.BytesIO(_content(path, archive, file, records[pickle_name], end)), path.name)
    storages = {
        name.removeprefix(f"{folder}data/"): _record_region(path, file, info, end)
        for name, info in records.items()
        if name.startswith(f"{folder}data/")
    }
    return TorchFile(path, content, storages)


def _content(path: Path, archive: zipfile.ZipFile, file: BinaryIO, info: zipfile.ZipInfo, end: int) -> bytes:
    """Read a small record; torch can write records without checksums, which the library rejects as damaged."""
    if info.CRC or info.compress_type != zipfile.ZIP_STORED:
        return archive.read(info)
    return read_region(file, _record_region(path, file, info, end))


def _record_region(path: Path, file: BinaryIO, info: zipfile.ZipInfo, end: int) -> Region:
    """Return the byte range of a record, which follows its local header of variable length."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise CheckpointError(
            f"{path.name} has compressed records, which torch.save never writes", hint="save it again with torch.save"
        )
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no record at byte {info.header_offset}")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    offset = info.header_offset + 30 + name_length + extra_length
    if offset + info.file_size > end:
        raise zipfile.BadZipFile(f"record {info.filename} reaches beyond the end")
    return Region(path, offset, info.file_size, info.CRC)


def read_legacy(path: Path) -> TorchFile:
    """Read the format of torch < 1.6: magic number, version, system, object, storage keys, then the raw storages.

    Raises:
        CheckpointError: If it is another pickle, or damaged.
    """
    with path.open("rb") as file:
        if safe_load(file, path.name)[0] != LEGACY_MAGIC:
            raise CheckpointError(
                f"{path.name} is a plain pickle, not a checkpoint written by torch.save",
                hint="save the model's state dict with torch.save or safetensors",
            )
        safe_load(file, path.name)
        system, _ = safe_load(file, path.name)
        if not isinstance(system, dict) or not system.get("little_endian", True):
            raise CheckpointError(
                f"{path.name} was saved on a big-endian machine", hint="save it again on a usual machine"
            )
        content, refs = safe_load(file, path.name)
        keys, _ = safe_load(file, path.name)
        sizes = {key: ITEM_SIZES[ref.dtype] for key, ref in refs.items()}
        return TorchFile(path, content, _legacy_storages(path, file, keys, sizes))


def _legacy_storages(path: Path, file: BinaryIO, keys: Any, sizes: Mapping[str, int]) -> dict[str, Region]:
    """Return the byte ranges of the raw storages: each an int64 count of elements, then the elements."""
    end = path.stat().st_size
    offset, storages = file.tell(), {}
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in sizes:
            raise CheckpointError(f"{path.name} holds a damaged list of storages", hint=DAMAGED)
        file.seek(offset)
        count = file.read(8)
        nbytes = struct.unpack("<q", count)[0] * sizes[key] if len(count) == 8 else -1
        if nbytes < 0 or offset + 8 + nbytes > end or key in storages:
            raise CheckpointError(f"{path.name} is cut short (storage {key} is incomplete)", hint=DAMAGED)
        storages[key] = Region(path, offset + 8, nbytes)
        offset += 8 + nbytes
    return storages


def _is_contiguous(ref: TensorRef) -> bool:
    step = 1
    for n, stride in zip(reversed(ref.shape), reversed(ref.stride), strict=True):
        if n != 1 and stride != step:
            return False
        step *= n
    return True


def _strided(name: str, ref: TensorRef, region: Region) -> TensorRecord:
    """Return the record of a strided tensor, made row-major when its bytes are read."""
    size = ITEM_SIZES[ref.storage.dtype]

    def make() -> bytes:
        import numpy as np

        elements = np.frombuffer(read_piece(region), dtype=f"V{size}")
        strides = tuple(step * size for step in ref.stride)
        return np.lib.stride_tricks.as_strided(elements, ref.shape, strides, writeable=False).tobytes()

    return TensorRecord(name, ref.storage.dtype, ref.shape, (Made(math.prod(ref.shape) * size, make),))

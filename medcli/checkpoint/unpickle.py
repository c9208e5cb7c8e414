"""Read the pickle inside a torch file without running anything from it and without torch.

A pickle is a program: it names functions and has them called. This one may name only what is listed below, and each
name is answered by a harmless stand-in of ours. Any other name stops the reading before anything is called.
"""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from medcli.errors import CheckpointError

# torch's storage classes by the element type they hold, in safetensors' names.
STORAGE_DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
# Values that training settings may hold; we keep only their names.
TORCH_DTYPES = frozenset(
    {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}
)


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A run of elements the pickle points at, lying elsewhere in the file."""

    dtype: str
    key: str
    num_elements: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A view of a storage: everything a tensor is but its numbers. Offset and strides count elements."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def safe_load(file: BinaryIO, source: str) -> tuple[Any, dict[str, StorageRef]]:
    """Read one pickle, with a `TensorRef` where a tensor stood.

    Args:
        file: Positioned at the pickle; left right after it.
        source: What to call the file in errors.

    Returns:
        Plain containers and values, `argparse.Namespace` and `TensorRef`; and the storages met, by key.

    Raises:
        CheckpointError: If the pickle names anything that is not allow-listed, or is damaged.
    """
    try:
        reader = _Reader(file, source)
        return reader.load(), reader.storages
    except CheckpointError:
        raise
    # A damaged pickle can fail in nearly every way a program can.
    except (Exception, RecursionError) as err:
        raise CheckpointError(
            f"{source} holds a damaged pickle ({type(err).__name__}: {err})", hint="download or copy the file again"
        ) from err


class _Reader(pickle.Unpickler):
    """An unpickler that knows a dozen names and refuses every other."""

    def __init__(self, file: BinaryIO, source: str) -> None:
        super().__init__(file, encoding="utf-8")
        self._source = source
        self.storages: dict[str, StorageRef] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Answer an allow-listed name with its stand-in."""
        if (module, name) in STAND_INS:
            return STAND_INS[module, name]
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if module == "torch" and name in TORCH_DTYPES:
            return name
        raise CheckpointError(
            f"{self._source} wants to run {module}.{name}, which no weights need; it was refused, nothing ran",
            hint="get it from a source you trust, or save its state dict alone: torch.save(model.state_dict(), path)",
        )

    def persistent_load(self, pid: Any) -> StorageRef:
        """Answer a reference to a storage: ('storage', type, key, device, elements[, view])."""
        match pid:
            case ("storage", str(dtype), str(key), _, int(num_elements), *rest) if num_elements >= 0:
                if not any(rest):
                    return self.storages.setdefault(key, StorageRef(dtype, key, num_elements))
        raise CheckpointError(f"{self._source} refers to a storage in an unknown way", hint="save it with torch >= 1.6")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorRef:
    """Stand in for torch's tensor builders; gradient flags and hooks are of no use here."""
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, StorageRef) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor with odd sizes")
    if len(shape) != len(stride):
        raise ValueError("a tensor with more sizes than strides")
    return TensorRef(storage, offset, tuple(shape), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _text(*values: Any) -> str:
    return ":".join(map(str, values))


STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("argparse", "Namespace"): Namespace,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    ("torch", "device"): _text,
}

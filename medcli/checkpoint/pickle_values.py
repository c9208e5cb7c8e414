"""Values that stand for what a pickle holds: tensors as references, plain data as placeholders. Torch-free.

Names that checkpoints need or that are plain data are listed here; a call of one gives a value of ours.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
MAX_VALUE_BYTES = 64
"""Longer byte strings, such as those of numpy arrays, are not kept."""
MAX_AXES = 64


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


@dataclass(slots=True, repr=False)
class Inert:
    """Placeholder of an object that is not built, such as a path, a numpy array or a namespace of settings."""

    kind: str
    """Qualified name of its class or function."""
    args: tuple[Any, ...] = ()
    settings: dict[Any, Any] = field(default_factory=dict)
    """Attributes or items it was given."""

    def __repr__(self) -> str:
        return f"a {self.kind}"


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle refers to."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def fill(target: dict[Any, Any], items: Any) -> None:
    """Put items into a dictionary; keys are plain values, because hashing others can take any time.

    Raises:
        ValueError: If a tensor would replace another of its name, which no writer does.
    """
    for key, value in items:
        if type(key) not in (str, int, float, bool, bytes, type(None)):
            continue
        if key in target and isinstance(target[key], TensorRef):
            raise ValueError(f"two tensors named {key}")
        target[key] = value


def call(function: Any, args: Any) -> Any:
    """Answer a call by its inert value."""
    if not isinstance(function, Name) or not isinstance(args, tuple):
        raise ValueError("a call of something that is no name")
    make = CALLS.get((function.module, function.name))
    return Inert(str(function), args[:2]) if make is None else make(*args)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorRef:
    """Stand in for torch's tensor builders; gradient flags and hooks are of no use here."""
    if not isinstance(storage, StorageRef) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without storage, shape or strides")
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *stride)):
        raise ValueError("a tensor with odd sizes")
    if len(shape) != len(stride) or len(shape) > MAX_AXES:
        raise ValueError("a tensor with more sizes than strides")
    return TensorRef(storage, offset, shape, stride)


def _dict_of(items: Any = (), *_: Any) -> dict[Any, Any]:
    """Stand in for OrderedDict and Counter, given nothing, pairs or a dictionary."""
    made: dict[Any, Any] = {}
    pairs = items.items() if isinstance(items, dict) else items
    fill(made, (pair for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2))
    return made


def _size(shape: Any = (), *_: Any) -> Any:
    return tuple(shape) if isinstance(shape, list) else shape


def _encoded(text: Any, *_: Any) -> Any:
    """Stand in for `_codecs.encode`, by which protocol 2 writes bytes."""
    return text.encode("latin-1") if isinstance(text, str) and len(text) <= MAX_VALUE_BYTES else Inert("bytes")


def _scalar(dtype: Any, data: Any = None, *_: Any) -> Any:
    """Stand in for a numpy scalar: its number or text if it is a plain one."""
    formats = {"f8": "d", "f4": "f", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "u8": "Q", "b1": "?"}
    code = dtype.args[0] if isinstance(dtype, Inert) and dtype.args else None
    if isinstance(code, str) and code[:1] == "U" and isinstance(data, bytes):
        return data.decode("utf-32-le", "replace").rstrip("\0")
    kind = formats.get(code) if isinstance(code, str) else None
    if kind is None or not isinstance(data, bytes) or len(data) != struct.calcsize(f"<{kind}"):
        return Inert("numpy scalar")
    return struct.unpack(f"<{kind}", data)[0]


GETATTR = Name("builtins", "getattr")
"""The function by which Python 3.11.0 to 3.11.3 write members of enumerations."""


def is_enum_member(args: Any) -> bool:
    """Check for arguments of `getattr` that can be a member of a script's enumeration: its class, and a name."""
    if not isinstance(args, tuple) or len(args) != 2 or not isinstance(args[0], Name):
        return False
    owner, name = args
    return _is_settings_class(owner.module, owner.name) and isinstance(name, str) and name.isidentifier()


def _member(owner: Any, name: Any) -> Inert:
    """Stand in for a member of an enumeration, by its name."""
    return Inert(str(owner), (name,))


def _retyped(function: Any, _: Any, args: Any, *__: Any) -> Any:
    """Stand in for tensors of a subclass or with attributes: the tensor they are built from."""
    return call(function, args)


CALLS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
    ("torch._tensor", "_rebuild_from_type_v2"): _retyped,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): _dict_of,
    ("collections", "Counter"): _dict_of,
    ("collections", "defaultdict"): lambda *_: {},
    ("collections", "deque"): lambda *_: [],
    ("builtins", "dict"): _dict_of,
    ("builtins", "getattr"): _member,
    ("_codecs", "encode"): _encoded,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}
"""Names whose calls give more than a placeholder."""

PLAIN_DATA: Mapping[str, frozenset[str] | None] = {
    "argparse": frozenset({"Namespace"}),
    "types": frozenset({"SimpleNamespace"}),
    "builtins": frozenset(
        {"set", "frozenset", "list", "tuple", "int", "float", "bool", "complex", "str", "bytes", "bytearray", "slice"}
        | {"range", "xrange", "object", "dict", "long", "unicode"}
    ),
    "datetime": frozenset({"datetime", "date", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "uuid": frozenset({"UUID"}),
    "random": frozenset({"Random"}),
    "copyreg": frozenset({"_reconstructor"}),
    "typing": frozenset({"Any"}),
    "torch": frozenset(
        {"Size", "device", "Tensor", *STORAGE_DTYPES}
        | {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}
        | {"strided", "contiguous_format", "preserve_format", "channels_last", "Generator"}
    ),
    "torch._utils": frozenset(
        {"_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor", "_rebuild_nested_tensor"}
        | {"_rebuild_meta_tensor_no_storage", "_rebuild_device_tensor_from_numpy", "_rebuild_tensor_v3"}
    ),
    "torch.nn.parameter": frozenset({"Parameter", "Buffer"}),
    "torch.torch_version": frozenset({"TorchVersion"}),
    "torch.serialization": frozenset({"_get_layout"}),
    "numpy": None,
    "numpy.dtypes": None,
    "numpy.core.multiarray": frozenset({"_reconstruct"}),
    "numpy._core.multiarray": frozenset({"_reconstruct"}),
    "numpy.core.numeric": frozenset({"_frombuffer"}),
    "numpy._core.numeric": frozenset({"_frombuffer"}),
    "numpy.random._pickle": None,
    "numpy.random._mt19937": frozenset({"MT19937"}),
    "numpy.random._pcg64": frozenset({"PCG64", "PCG64DXSM"}),
    "numpy.random._philox": frozenset({"Philox"}),
    "numpy.random.bit_generator": frozenset({"SeedSequence", "__pyx_unpickle_SeedSequence"}),
    "easydict": frozenset({"EasyDict"}),
    "addict.addict": frozenset({"Dict"}),
    "yacs.config": frozenset({"CfgNode"}),
    "lightning_fabric.utilities.data": frozenset({"AttributeDict"}),
    "lightning.fabric.utilities.data": frozenset({"AttributeDict"}),
    "pytorch_lightning.utilities.parsing": frozenset({"AttributeDict"}),
    "lightning.pytorch.utilities.parsing": frozenset({"AttributeDict"}),
}
"""Names of plain data by module, answered with placeholders; None: see `NUMPY_DATA` and `_is_plain_word`."""
NUMPY_DATA = frozenset({"dtype", "ndarray", "generic", "matrix", "bool", "bool_", "float_", "int_", "str_", "bytes_"})
DATA_PACKAGES = ("omegaconf", "ml_collections", "pathlib", "torch.optim.lr_scheduler")
"""Packages whose classes hold settings; names of functions are not accepted."""
SETTINGS_ENDINGS = ("Config", "Cfg", "Args", "Arguments", "Options", "Settings", "HParams", "Params", "Type")
"""Ends of the names of classes that hold settings."""
OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy.matrixlib.defmatrix": "numpy"}
"""Modules by the names that Python 2 or older libraries gave them."""


def is_allowed(module: str, name: str) -> bool:
    """Check whether a name is one of tensors, containers or plain data; `module` is not an old one."""
    if (module, name) in CALLS:
        return True
    if module in PLAIN_DATA:
        names = PLAIN_DATA[module]
        if names is not None:
            return name in names
        return name in NUMPY_DATA or _is_plain_word(name)
    if _is_settings_class(module, name):
        return True
    package = any(module == known or module.startswith(f"{known}.") for known in DATA_PACKAGES)
    return package and name.isidentifier() and name[0].isupper()


def _is_settings_class(module: str, name: str) -> bool:
    """Check for a class of a training script that by its name holds settings; nothing of it is run either."""
    is_of_a_script = module.partition(".")[0] not in sys.stdlib_module_names - {"__main__"}
    return is_of_a_script and name.isidentifier() and name[0].isupper() and name.endswith(SETTINGS_ENDINGS)


def _is_plain_word(name: str) -> bool:
    """Check for numpy's sized types, its dtype classes and the constructors of its random states."""
    stems = ("float", "int", "uint", "complex", "str", "bytes", "datetime", "timedelta")
    return (
        (name.startswith(stems) and name.lstrip("abcdefghijklmnopqrstuvwxyz").isdigit())
        or (name.endswith("DType") and name.isidentifier())
        or name in ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor")
    )

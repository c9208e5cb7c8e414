"""Read the pickle inside a torch file without running anything from it and without torch.

A pickle is a program: it names functions and has them called. This reader interprets its opcodes itself. Names that
checkpoints need or that stand for plain data are answered by inert values of ours; any other name ends the reading.
Memory is bounded by the number of opcodes and bytes, because nothing is ever computed from values of the file.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from medcli.checkpoint.pickle_values import (
    GETATTR,
    MAX_VALUE_BYTES,
    OLD_MODULES,
    STORAGE_DTYPES,
    Inert,
    Name,
    StorageRef,
    call,
    fill,
    is_allowed,
    is_enum_member,
)
from medcli.errors import CheckpointError

MAX_PICKLE_BYTES = 128 * 2**20
"""Far beyond the 60 KB of an XL's training state: arrays and histories of a run may stand beside its weights."""
MAX_OPCODES = 2_000_000
"""An XL's training state has 20,000; each takes at most some 200 bytes of memory."""
SAVE_ALONE = "save its state dict alone: torch.save(model.state_dict(), path)"
DAMAGED = "download or copy the file again"


def safe_load(file: BinaryIO, source: str) -> tuple[Any, dict[str, StorageRef]]:
    """Read one pickle, with a `TensorRef` for each tensor.

    Args:
        file: Positioned at the pickle; left right after it.
        source: Name of the file in error messages.

    Returns:
        Plain containers and values, `TensorRef` and `Inert`; and the storages met, by key.

    Raises:
        CheckpointError: If the pickle refers to anything but plain data and tensors, is too large, or is damaged.
    """
    reader = _Interpreter(source)
    try:
        return reader.run(_Bounded(file)), reader.storages
    except CheckpointError:
        raise
    # A damaged pickle can fail in nearly every way a program can.
    except (Exception, RecursionError) as err:
        what = f"{type(err).__name__}: {err}"[:200]
        raise CheckpointError(f"{source} holds a damaged pickle ({what})", hint=DAMAGED) from err


class _Bounded:
    """A file of which only so many bytes may be read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, MAX_PICKLE_BYTES

    def read(self, size: int) -> bytes:
        self._left -= size
        if size < 0 or self._left < 0:
            raise ValueError(f"more than {MAX_PICKLE_BYTES >> 20} MiB")
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(min(self._left, 1 << 16))
        self._left -= len(line)
        return line


class _Interpreter:
    """A stack machine for the opcodes that checkpoints use; `run` is given a pickle once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}

    def run(self, data: Any) -> Any:
        """Interpret all opcodes; returns the object."""
        for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            if count > MAX_OPCODES:
                raise CheckpointError(
                    f"{self._source} holds a pickle of more than {MAX_OPCODES} steps, far beyond any checkpoint's",
                    hint=SAVE_ALONE,
                )
            name = opcode.name
            if name in VALUES:
                self._stack.append(arg)
            elif name in CONSTANTS:
                self._stack.append(CONSTANTS[name]())
            elif (step := STEPS.get(name)) is not None:
                step(self, arg)
            elif name == "STOP":
                break
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"opcode {name}")
        return self._stack.pop()

    # Memo and stack.
    def _put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._to_mark()

    def _bytes(self, value: bytes) -> None:
        self._stack.append(bytes(value) if len(value) <= MAX_VALUE_BYTES else Inert("bytes"))

    # Containers.
    def _tuple(self, size: int) -> None:
        items = tuple(self._stack[len(self._stack) - size :])
        if len(items) != size:
            raise ValueError("stack underflow")
        del self._stack[len(self._stack) - size :]
        self._stack.append(items)

    def _append(self, items: list[Any]) -> None:
        if isinstance(target := self._stack[-1], list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise ValueError(f"items for a {type(target).__name__}")

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Inert):
            target = target.settings
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f"keys for a {type(target).__name__}")
        fill(target, zip(items[::2], items[1::2], strict=True))

    def _dict(self, items: list[Any]) -> None:
        self._stack.append({})
        self._set(items)

    # Objects.
    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        module = OLD_MODULES.get(module, module)
        if not is_allowed(module, name):
            raise self._refusal(Name(module, name))
        self._stack.append(Name(module, name))

    def _global_on_stack(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _refusal(self, name: Name) -> CheckpointError:
        return CheckpointError(
            f"{self._source} wants to run {str(name)[:100]}, which no weights need; it was refused, nothing ran",
            hint=f"get it from a source you trust, or {SAVE_ALONE}",
        )

    def _call(self, function: Any, args: Any) -> Any:
        if function == GETATTR and not is_enum_member(args):
            raise self._refusal(function)
        return call(function, args)

    def _reduce(self, _: Any) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._call(function, args))

    def _new_with_names(self, _: Any) -> None:
        names, args, function = self._stack.pop(), self._stack.pop(), self._stack.pop()
        made = self._call(function, args)
        if isinstance(made, Inert) and isinstance(names, dict):
            made.settings.update(names)
        self._stack.append(made)

    def _object(self, _: Any) -> None:
        function, *args = self._to_mark()
        self._push(self._call(function, tuple(args)))

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Inert):
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, dict):
                    fill(target.settings, part.items())
        elif not isinstance(target, dict | list):  # an ordered dict of weights has attributes, which say nothing
            raise ValueError(f"a state for a {type(target).__name__}")

    def _storage(self, _: Any) -> None:
        """Answer a reference to a storage: ('storage', type, key, device, elements[, view])."""
        match self._stack.pop():
            case ("storage", Name("torch", kind), str(key), _, int(number), *rest) if number >= 0 and not any(rest):
                if kind in STORAGE_DTYPES:
                    found = StorageRef(STORAGE_DTYPES[kind], key, number)
                    self._stack.append(self.storages.setdefault(key, found))
                    return
        raise CheckpointError(f"{self._source} refers to a storage in an unknown way", hint="save it with torch >= 1.6")


VALUES = frozenset(
    {"NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
    | {"FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"STRING", "SHORT_BINSTRING", "BINSTRING"}
)
CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Inert("set"),
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
STEPS: dict[str, Callable[[_Interpreter, Any], None]] = {
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Interpreter._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Interpreter._get),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Interpreter._bytes),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Interpreter._reduce),
    "MARK": _Interpreter._mark,
    "POP": _Interpreter._pop,
    "POP_MARK": lambda self, _: (self._to_mark(), None)[1],
    "DUP": lambda self, _: self._stack.append(self._stack[-1]),
    "LIST": lambda self, _: self._push(self._to_mark()),
    "TUPLE": lambda self, _: self._push(tuple(self._to_mark())),
    "TUPLE1": lambda self, _: self._tuple(1),
    "TUPLE2": lambda self, _: self._tuple(2),
    "TUPLE3": lambda self, _: self._tuple(3),
    "DICT": lambda self, _: self._dict(self._to_mark()),
    "FROZENSET": lambda self, _: self._push(Inert("frozenset", tuple(self._to_mark()[:0]))),
    "APPEND": lambda self, _: self._append([self._stack.pop()]),
    "APPENDS": lambda self, _: self._append(self._to_mark()),
    "ADDITEMS": lambda self, _: self._append(self._to_mark()),
    "SETITEM": lambda self, _: self._set([self._stack.pop(-2), self._stack.pop()]),
    "SETITEMS": lambda self, _: self._set(self._to_mark()),
    "GLOBAL": lambda self, arg: self._name(*arg.split(" ", 1)),
    "STACK_GLOBAL": _Interpreter._global_on_stack,
    "NEWOBJ_EX": _Interpreter._new_with_names,
    "OBJ": _Interpreter._object,
    "BUILD": _Interpreter._build,
    "BINPERSID": _Interpreter._storage,
}

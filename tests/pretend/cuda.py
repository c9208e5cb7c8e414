"""A CUDA device that is not there: real numbers on the CPU, the rules of a GPU.

Inside `pretend_cuda()` tensors made for or moved to `cuda` are wrappers around a CPU tensor that say `device=cuda:0`.
All they meet goes through a dispatch mode that
  - refuses operands on two devices, as CUDA does (0-dim CPU operands of pointwise operations excepted),
  - counts kernels (operations that are not views), and
  - notes what makes the host wait for the device, with the line of the caller.
So whole programs run, control flow and gradients included, and what would go wrong or stall on a GPU shows without one.
For torch's C++ the wrappers are CPU tensors, so a CPU build does; what asks for a device in Python gets `cuda:0`.

Copies to the host that are not waited for show wrong numbers.
Not modelled: other streams, memory, kernels' rounding, torch.compile. Autocast for cuda becomes autocast for cpu.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
VIEWS = frozenset(
    {
        "view",
        "_unsafe_view",
        "expand",
        "permute",
        "transpose",
        "t",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "split",
        "split_with_sizes",
        "detach",
        "alias",
        "as_strided",
        "unfold",
        "_reshape_alias",
        "lift_fresh",
        "diagonal",
        "unbind",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "set_",
        "unsafe_split",
        "view_as_real",
        "is_pinned",
        "_has_same_storage_numel",
        "result_type",
    }
)
WAITS = frozenset(
    {
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "equal",
        "is_nonzero",
        "bincount",
        "repeat_interleave",
        "_linalg_check_errors",
    }
)
"""Operations whose result, or its shape, the host needs (`_linalg_check_errors`: of eigh, cholesky and their like)."""
INDEXING = frozenset(["index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"])


class DeviceMismatch(RuntimeError):
    """Two devices in one operation."""


class Pretended(torch.Tensor):
    """A tensor that says it is on cuda:0."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, requires_grad: bool = False) -> Pretended:
        if isinstance(held, Pretended):
            return held.detach().requires_grad_(requires_grad)
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=CPU
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self, **_: object) -> str:
        return f"Pretended({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if not _running:
            raise RuntimeError(f"{func}: used outside pretend_cuda()")
        return _running[-1].run(func, args, kwargs or {})


@dataclass
class Log:
    """What happened."""

    kernels: Counter = field(default_factory=Counter)
    syncs: Counter = field(default_factory=Counter)
    """(what, where) -> times the host waits."""
    fp64: Counter = field(default_factory=Counter)
    """float64 kernels by (name, where)."""
    arriving: list = field(default_factory=list)
    """Copies to the host that no event has been waited for: what they show, which is wrong, and what they will."""
    overlaps: list = field(default_factory=list)
    """Kernels launched between the record of each event and the wait for it."""

    @property
    def num_kernels(self) -> int:
        return sum(self.kernels.values())

    @property
    def num_syncs(self) -> int:
        return sum(self.syncs.values())

    def clear(self) -> None:
        self.__init__()


def _where() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/medcli/" in name:
            return f"{name.split('/medcli/')[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "test"


def _pretend(value):
    return Pretended(value) if isinstance(value, torch.Tensor) and not isinstance(value, Pretended) else value


class _Mode(TorchDispatchMode):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        name = func._schema.name.split("::")[1]
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        ours = [x for x in leaves if isinstance(x, Pretended)]
        theirs = [x for x in leaves if not isinstance(x, Pretended)]
        is_made_here = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if not ours and not is_made_here:
            return func(*args, **kwargs)
        if is_made_here:
            kwargs = {**kwargs, "device": CPU}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        self._check(func, name, args, ours, theirs)
        held_args, held_kwargs = tree_map(lambda x: x.held if isinstance(x, Pretended) else x, (args, kwargs))
        out = func(*held_args, **held_kwargs)
        if name not in VIEWS | WAITS:
            self._count(name, out)
        if name in ("_local_scalar_dense", "equal", "is_nonzero"):
            return out
        if name == "copy_":
            return args[0]
        of_held = {id(x.held): x for x in ours}
        # In-place and out= results are the tensors given.
        return tree_map(lambda x: of_held[id(x)] if func._schema.is_mutable and id(x) in of_held else _pretend(x), out)

    def _check(self, func, name, args, ours, theirs) -> None:
        log = self.log
        if name == "copy_":
            _transfer(log, args[1], isinstance(args[0], Pretended), len(args) > 2 and bool(args[2]))
        elif name in WAITS:
            log.syncs[name, _where()] += 1
        elif name in INDEXING:
            for index in (index for index in args[1] if index is not None):
                if index.dtype in (torch.bool, torch.uint8):
                    log.syncs["index by a mask", _where()] += 1
                if isinstance(args[0], Pretended) and not isinstance(index, Pretended):
                    log.syncs["index on the CPU, sent", _where()] += 1
                if not isinstance(args[0], Pretended) and isinstance(index, Pretended):
                    raise DeviceMismatch(f"a CPU tensor is indexed by one of the device, {_where()}")
            if "put" in name and isinstance(args[0], Pretended) != isinstance(args[2], Pretended) and args[2].dim():
                raise DeviceMismatch(f"{name}: target and value on two devices, {_where()}")
        elif ours and (wrong := [tuple(x.shape) for x in theirs if x.dim() > 0]):
            raise DeviceMismatch(f"{func}: cuda:0, and cpu of {wrong}, {_where()}")

    def _count(self, name, out) -> None:
        log = self.log
        log.kernels[name] += 1
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        if any(x.dtype == torch.float64 for x in made):
            log.fp64[name, _where()] += 1


def _transfer(log: Log, source: torch.Tensor, to_device: bool, non_blocking: bool) -> None:
    """Note a copy between the devices."""
    from_device = isinstance(source, Pretended)
    if from_device == to_device:
        return
    if from_device and not non_blocking:
        log.syncs["device to host", _where()] += 1
    elif from_device:
        pass
    elif not non_blocking:
        # cudaMemcpyAsync and a wait for the stream: for everything that was queued before, too.
        log.syncs["host to device, blocking", _where()] += 1


class _Moves(TorchFunctionMode):
    """Moves between devices, which torch's C++ would not see, and fused attention, which is one kernel."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("to", "cpu", "cuda") and args and isinstance(args[0], torch.Tensor):
            return self._to(name, func, args, kwargs)
        if name == "pin_memory":
            return args[0]
        if (
            func in (torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor)
            and kwargs.get("device") is not None
        ):
            target = torch.device(kwargs.pop("device"))
            source = (
                args[0] if isinstance(args[0], torch.Tensor) and func is not torch.tensor else func(*args, **kwargs)
            )
            return self._to("to", func, (source, target), {"dtype": kwargs.get("dtype")})
        if func is torch.nn.functional.scaled_dot_product_attention and isinstance(args[0], Pretended):
            return self._attend(*args, **kwargs)
        if name in ("numpy", "__array__") and isinstance(args[0], Pretended):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name == "tolist" and isinstance(args[0], Pretended):
            _transfer(self.log, args[0], False, False)
            with _disable_current_modes():
                return args[0].held.tolist()
        return func(*args, **kwargs)

    def _to(self, name, func, args, kwargs):
        source, rest = args[0], list(args[1:])
        target = source.device
        dtype = kwargs.pop("dtype", None)
        if name != "to":
            target, rest = torch.device(name), []
        if "device" in kwargs:
            target = torch.device(kwargs.pop("device") or target)
        if other := kwargs.pop("other", None):
            rest.insert(0, other)
        left = []
        for part in rest:
            if isinstance(part, torch.Tensor):
                target, dtype = part.device, part.dtype
            elif isinstance(part, torch.device | str | int) and not isinstance(part, bool):
                target = torch.device(part)
            elif isinstance(part, torch.dtype):
                dtype = part
            elif isinstance(part, bool):
                kwargs["non_blocking" if not left else "copy"] = part
                left.append(part)
        if target.type != source.device.type:
            is_ahead = bool(kwargs.get("non_blocking"))
            _transfer(self.log, source, target.type == "cuda", is_ahead)
            if is_ahead and target.type == "cpu":
                return _arriving(self.log, source)
            source = _Cross.apply(source) if source.requires_grad and torch.is_grad_enabled() else _cross(source)
        kwargs.pop("non_blocking", None)
        return torch.Tensor.to(source, dtype or source.dtype, **kwargs)

    def _attend(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        for other in (key, value, attn_mask):
            if other is not None and not isinstance(other, Pretended):
                raise DeviceMismatch(f"scaled_dot_product_attention: an operand on the CPU, {_where()}")
        if attn_mask is not None and attn_mask.dtype not in (torch.bool, query.dtype):
            raise RuntimeError(f"attn_mask of {attn_mask.dtype} beside queries of {query.dtype}, {_where()}")
        self.log.kernels["sdpa" if attn_mask is None else "sdpa with a bias"] += 1
        before = self.log.kernels.copy()
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        mixed = (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ value
        self.log.kernels.clear()
        self.log.kernels.update(before)
        # CUDA's kernels lay the result out as (B, N, H, K).
        return mixed.transpose(1, 2).contiguous().transpose(1, 2) if torch.is_grad_enabled() else _bnhk(mixed)


def _arriving(log: Log, source: Pretended) -> torch.Tensor:
    """Return a copy on the host that shows other numbers until an event recorded after it has been waited for."""
    with _disable_current_modes():
        right = source.held.detach().clone()
        shown = torch.full_like(right, -1)
    log.arriving.append((shown, right))
    return shown


class _Stream:
    def __init__(self, log: Log) -> None:
        self.log = log

    def record_event(self):
        return _Event(self.log)


class _Event:
    def __init__(self, log: Log) -> None:
        self.log, self.due, self.num_before = log, list(log.arriving), log.num_kernels

    def synchronize(self) -> None:
        self.log.syncs["event", _where()] += 1
        self.log.overlaps.append(self.log.num_kernels - self.num_before)
        for shown, right in self.due:
            shown.copy_(right)


def _bnhk(mixed: Pretended) -> Pretended:
    with _disable_current_modes():
        return Pretended(mixed.held.transpose(1, 2).contiguous().transpose(1, 2))


def _cross(source: torch.Tensor) -> torch.Tensor:
    with _disable_current_modes(), torch.no_grad():
        return source.held.clone() if isinstance(source, Pretended) else Pretended(source.detach().clone())


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx, source):
        return _cross(source)

    @staticmethod
    def backward(ctx, grad):
        return _cross(grad)


_running: list[_Mode] = []


@contextmanager
def pretend_cuda() -> Iterator[Log]:
    """Yields the log."""
    log, cuda = Log(), torch.cuda
    mode = _Mode(log)
    autocast = torch.autocast
    replaced = {
        (cuda, "is_available"): lambda: True,
        (cuda, "device_count"): lambda: 1,
        (cuda, "current_device"): lambda: 0,
        (cuda, "synchronize"): lambda *_: log.syncs.update([("torch.cuda.synchronize", _where())]),
        (cuda, "current_stream"): lambda *_: _Stream(log),
        (cuda, "get_device_name"): lambda *_: "pretended",
        (cuda, "memory_allocated"): lambda *_: 0,
        (cuda, "max_memory_allocated"): lambda *_: 0,
        (cuda, "reset_peak_memory_stats"): lambda *_: None,
        (cuda, "_lazy_init"): lambda: None,
        (torch, "autocast"): lambda kind, *args, **named: autocast("cpu", *args, **named),
    }
    saved = {place: getattr(*place) for place in replaced}
    _running.append(mode)
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter that moves is another tensor
    for (owner, name), value in replaced.items():
        setattr(owner, name, value)
    try:
        with _Moves(log), mode:
            yield log
    finally:
        for (owner, name), value in saved.items():
            setattr(owner, name, value)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
        _running.pop()

"""Write medcli checkpoints: streamed to a temporary file and renamed; equal contents give equal bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.checkpoint.header import Header
from medcli.checkpoint.safetensors_file import build_header
from medcli.checkpoint.stream import Sink, copy_records, writing
from medcli.checkpoint.tensor_record import ITEM_SIZES, Made, TensorRecord
from medcli.config import ModelConfig
from medcli.errors import CheckpointError
from medcli.model.layout import tensor_shapes
from medcli.runtime.files import atomic_path
from medcli.runtime.reporting import Reporter, Silent

if TYPE_CHECKING:
    import torch


def write_safetensors(
    path: Path,
    records: Iterable[TensorRecord],
    metadata: Mapping[str, str],
    *,
    source: str,
    force: bool = False,
    digest: bool = True,
    reporter: Reporter | None = None,
) -> str | None:
    """Write tensors and metadata as a safetensors file.

    Args:
        records: The tensors; kept in this order within each element size.
        metadata: Texts for the header.
        source: What to call the input in errors.
        digest: Whether to hash what is written, which takes longer than writing it.
        reporter: Told the tensors finished.

    Returns:
        SHA-256 of the file, in hexadecimal; None without `digest`.

    Raises:
        CheckpointError: If a weight is NaN or infinite.
        ConfigError: If the file exists and `force` is off.
        EnvironmentProblem: If the place can't be written to or is full.
    """
    # Larger elements first keep every tensor aligned; the sort is stable.
    ordered = sorted(records, key=lambda record: -ITEM_SIZES[record.dtype])
    header = build_header(ordered, metadata)
    told = reporter or Silent()
    sha256 = hashlib.sha256()
    with atomic_path(path, force=force) as temporary, ExitStack() as stack:
        file = stack.enter_context(temporary.open("r+b", buffering=0))
        _reserve(file.fileno(), len(header) + sum(record.nbytes for record in ordered))
        takers = [writing(file), *([sha256.update] if digest else [])]
        sinks = [stack.enter_context(Sink(take)) for take in takers]
        for sink in sinks:
            sink.feed(header)
        copy_records(ordered, sinks, lambda done: told.progress(done, len(ordered), "tensors"), source=source)
    return sha256.hexdigest() if digest else None


def _reserve(descriptor: int, nbytes: int) -> None:
    """Allocate the file up front: a full disk is found before minutes of copying."""
    # Not every system has the call.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, nbytes)


def save_checkpoint(
    path: str | os.PathLike[str],
    config: ModelConfig,
    tensors: Mapping[str, torch.Tensor],
    *,
    weights: str = "ema",
    sampling: Mapping[str, Any] | None = None,
    reference: str | None = None,
    training: Mapping[str, Any] | None = None,
    class_names: tuple[str, ...] = (),
    force: bool = False,
) -> str:
    """Write a model from memory as a medcli checkpoint.

    Args:
        config: The architecture; goes into the header.
        tensors: The state dict, all of `tensor_shapes(config)` and nothing else.
        weights: `ema` or `model`: weight set.
        sampling: Default sampler and schedule values of this model.
        reference: Name of the bundled reference set its samples are scored against.
        training: Training settings and history, for people.
        class_names: Name of each class; empty if they have none.

    Returns:
        SHA-256 of the file, in hexadecimal.

    Raises:
        CheckpointError: If the tensors don't fit the configuration, or hold NaN or infinite weights.
        ConfigError: If the file exists and `force` is off.
        EnvironmentProblem: If the place can't be written to or is full.
    """
    from medcli.checkpoint.check import check_content

    records = {name: record_of(name, tensor) for name, tensor in tensors.items()}
    source = Path(path).name
    check_content(records, config, source)
    header = Header(config, weights, sampling or {}, reference, training or {}, class_names=class_names)
    ordered = [records[name] for name in tensor_shapes(config) if name in records]
    if len(ordered) < len(tensor_shapes(config)):
        raise CheckpointError(f"{source}: pos_embed is missing from the state dict", hint="save model.state_dict()")
    return str(write_safetensors(Path(path), ordered, header.to_metadata(), source=source, force=force))


def record_of(name: str, tensor: torch.Tensor) -> TensorRecord:
    """Wrap a tensor in memory as a tensor record."""
    import torch

    codes = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    if tensor.dtype not in codes:
        raise CheckpointError(
            f"{name} is {tensor.dtype}, expected floating point weights", hint="save model.state_dict()"
        )

    def make() -> bytes:
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().tobytes()

    return TensorRecord(
        name, codes[tensor.dtype], tuple(tensor.shape), (Made(tensor.numel() * tensor.element_size(), make),)
    )

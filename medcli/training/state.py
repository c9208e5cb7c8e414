"""One saved state of a training run: a safetensors file with all that is needed to go on.

Its tensors are weights, averages and AdamW's memory; its header key `medcli_training` holds the rest. All randomness is
a function of (seed, step), so there is no generator to save.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from medcli.errors import CheckpointError, listed
from medcli.runtime.files import atomic_path

KEY = "medcli_training"
Read = Callable[[str], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class StateHeader:
    """What a state says of itself."""

    run: dict[str, Any]
    """What a run that goes on from here must share, JSON values."""
    journal: dict[str, Any]
    """`History.to_json` of the run so far."""
    scaler: dict[str, Any]
    """State of fp16's loss scaling; empty without."""
    keys: tuple[str, ...]
    """Names of the tensors, sorted."""
    checksum: int
    """CRC-32 of the tensors' bytes in that order."""

    @property
    def step(self) -> int:
        """Steps that are done."""
        return int(self.journal["done"])

    def require_same_run(self, run: Mapping[str, Any], path: Path) -> None:
        """Refuse to go on with another run.

        Raises:
            CheckpointError: If something differs; it is named.
        """
        wanted = json.loads(json.dumps(run))
        changed = sorted(key for key in {*wanted, *self.run} if self.run.get(key) != wanted.get(key))
        if changed:
            names = listed([name.replace("_", " ") for name in changed])
            raise CheckpointError(
                f"{path.parent} holds a run with another {names}",
                hint="choose another --output, the settings it was started with, or --resume never to start over",
            )


def write_state(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    run: Mapping[str, Any],
    journal: Mapping[str, Any],
    scaler: Mapping[str, Any],
) -> None:
    """Write a state, whole or not at all.

    Args:
        path: The file; replaced if it is there.
        tensors: On the CPU.
        run: See `StateHeader`, as are the others.
        journal: See there.
        scaler: See there.
    """
    plain = {name: tensors[name].contiguous() for name in sorted(tensors)}
    header = StateHeader(
        run=dict(run), journal=dict(journal), scaler=dict(scaler), keys=tuple(plain), checksum=_checksum(plain.values())
    )
    with atomic_path(path, force=True) as temporary:
        save_file(plain, temporary, metadata={KEY: json.dumps(asdict(header), sort_keys=True)})


def read_header(path: Path) -> StateHeader:
    """Read a state's header, and make sure that the file is whole.

    Raises:
        CheckpointError: If it is missing, damaged or no training state.
    """
    with open_state(path) as (header, read):
        if _checksum(read(key) for key in header.keys) != header.checksum:
            raise CheckpointError(f"{path} is damaged: its tensors are not those that were saved")
    return header


@contextmanager
def open_state(path: Path) -> Iterator[tuple[StateHeader, Read]]:
    """Open a state.

    Yields:
        Its header, and what reads a tensor by its name.

    Raises:
        CheckpointError: If it is missing, damaged or no training state.
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()[KEY])
            yield StateHeader(**{**values, "keys": tuple(values["keys"])}), file.get_tensor
    except CheckpointError:
        raise
    except Exception as err:
        raise CheckpointError(f"{path} is not a readable training state: {err or type(err).__name__}") from err


def _checksum(tensors: Iterable[Tensor]) -> int:
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return total

"""Check the bytes of tensors as they are read: finite weights, matrices that are not empty, checksums of pieces."""

from __future__ import annotations

import re
import zlib

from medcli.checkpoint.tensor_record import FLOAT_DTYPES, ITEM_SIZES, Piece, Region, TensorRecord
from medcli.errors import CheckpointError

TRAINED = re.compile(
    r".*blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc[12]|w12|w3))\.weight|(x_embedder\.proj|t_embedder\.mlp\.\d)\.weight"
)
"""Matrices that neither start at zero nor become zero by training."""


class ValueCheck:
    """Checks the chunks of one tensor; `finish` comes last.

    Args:
        source: Name of its file in error messages.
    """

    def __init__(self, record: TensorRecord, source: str) -> None:
        self._record, self._source = record, source
        self._may_be_zero = TRAINED.fullmatch(record.name) is not None

    def take(self, chunk: memoryview) -> None:
        """Check whole elements, the next bytes of the tensor.

        Raises:
            CheckpointError: If a weight is NaN or infinite.
        """
        record = self._record
        if record.dtype in FLOAT_DTYPES and not _is_finite(chunk, record.dtype):
            raise CheckpointError(
                f"{self._source}: tensor {record.name} holds NaN or infinite weights",
                hint="take an earlier checkpoint, from before the training diverged",
            )
        if self._may_be_zero:
            self._may_be_zero = not _has_nonzero(chunk)

    def finish(self) -> None:
        """Check the tensor as a whole.

        Raises:
            CheckpointError: If it is a trained matrix of zeros.
        """
        if self._may_be_zero and self._record.num_elements:
            raise CheckpointError(
                f"{self._source}: all weights of {self._record.name} are zero, which no training leaves",
                hint="download or copy the file again",
            )


class Checksum:
    """Checks the checksums of pieces, read one after the other.

    Args:
        source: Name of their file in error messages.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._crc = self._done = 0

    def take(self, chunk: memoryview, piece: Piece, name: str) -> None:
        """Check the next bytes of a piece.

        Args:
            chunk: The bytes.
            piece: The piece; one without a checksum passes.
            name: Name of its tensor.

        Raises:
            CheckpointError: If the piece ends with them and its checksum does not fit.
        """
        if not isinstance(piece, Region) or not piece.crc32:  # zero: written without checksums
            return
        self._crc = zlib.crc32(chunk, self._crc)
        self._done += len(chunk)
        if self._done < piece.nbytes:
            return
        if self._crc != piece.crc32:
            raise CheckpointError(
                f"{self._source} is damaged: the checksum (CRC-32) of {name} does not fit its bytes",
                hint="download or copy the file again",
            )
        self._crc = self._done = 0


def _has_nonzero(chunk: memoryview) -> bool:
    import numpy as np

    return bool(np.frombuffer(chunk, dtype=np.uint8).any())


def _is_finite(data: memoryview, dtype: str) -> bool:
    import numpy as np

    if dtype == "BF16":
        # Infinities and NaN are the values whose exponent bits are all ones.
        return bool(((np.frombuffer(data, dtype="<u2") & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(np.frombuffer(data, dtype=f"<f{ITEM_SIZES[dtype]}")).all())

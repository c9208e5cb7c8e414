"""Copy tensors to a file a few megabytes at a time: read, check, write and hash in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from medcli.checkpoint.tensor_record import Piece, Region, TensorRecord
from medcli.checkpoint.value_check import Checksum, ValueCheck
from medcli.errors import CheckpointError

CHUNK_BYTES = 2 * 2**20
NUM_BUFFERS = 4
"""Number of chunks in flight: one being filled, the others being written and hashed."""


class Sink:
    """Consumer of chunks, in order, on a thread of its own.

    Writing, SHA-256 and CRC-32 leave the interpreter free, so with several of these a copy takes as long as its slowest
    part.

    Args:
        take: Called with each chunk and what is fed with it; the bytes change after it returns.
    """

    def __init__(self, take: Callable[..., object]) -> None:
        self._take = take
        self._pool = ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def feed(self, data: memoryview | bytes, *about: object) -> Future[object]:
        """Queue bytes; they must stay as they are until the returned future is done."""
        return self._pool.submit(self._take, data, *about)


def writing(file: BinaryIO) -> Callable[[memoryview | bytes], None]:
    """Return a sink's function that writes whole chunks to an unbuffered file."""

    def write(data: memoryview | bytes) -> None:
        written = 0
        while written < len(data):
            written += file.write(data[written:])

    return write


def copy_records(
    records: Iterable[TensorRecord], sinks: Sequence[Sink], progress: Callable[[int], None], *, source: str
) -> None:
    """Feed the bytes of tensors to sinks in order; returns when all are consumed.

    Args:
        records: What to carry, in order.
        sinks: Each is given every byte.
        progress: Called with the number of tensors read so far.
        source: What to call the input in errors.

    Raises:
        CheckpointError: If a tensor's values or checksum are wrong (it is named), or an input became shorter.
    """
    buffers = [memoryview(bytearray(CHUNK_BYTES)) for _ in range(NUM_BUFFERS)]
    pending: list[list[Future[object]]] = [[] for _ in buffers]
    turn = 0
    with ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}
        checksum = stack.enter_context(Sink(Checksum(source).take))
        for number, record in enumerate(records, start=1):
            check = ValueCheck(record, source)
            for piece, fill in _chunks(record, files, stack):
                _wait(pending[turn])
                chunk = buffers[turn][: fill(buffers[turn])]
                check.take(chunk)
                pending[turn] = [checksum.feed(chunk, piece, record.name), *(sink.feed(chunk) for sink in sinks)]
                turn = (turn + 1) % NUM_BUFFERS
            check.finish()
            progress(number)
        for futures in pending:
            _wait(futures)


def _wait(futures: list[Future[object]]) -> None:
    for future in futures:
        future.result()


def _chunks(
    record: TensorRecord, files: dict[Path, BinaryIO], stack: ExitStack
) -> Iterator[tuple[Piece, Callable[[memoryview], int]]]:
    """Yield pieces of a tensor, and functions that fill a buffer with their next bytes and return the number."""
    for piece in record.pieces:
        if isinstance(piece, Region):
            if piece.path not in files:
                files[piece.path] = stack.enter_context(piece.path.open("rb", buffering=0))
            for start in range(0, piece.nbytes, CHUNK_BYTES):
                size = min(CHUNK_BYTES, piece.nbytes - start)
                yield piece, _Reading(files[piece.path], piece, start, size)
        else:
            data = memoryview(piece.make())
            for start in range(0, len(data), CHUNK_BYTES):
                yield piece, _Lending(data[start : start + CHUNK_BYTES])


class _Reading:
    """Buffer filler that reads from a file."""

    def __init__(self, file: BinaryIO, region: Region, start: int, size: int) -> None:
        self._file, self._region, self._start, self._size = file, region, start, size

    def __call__(self, buffer: memoryview) -> int:
        self._file.seek(self._region.offset + self._start)
        done = 0
        while done < self._size:
            # One call returns less than asked for when a signal arrives or the file ends.
            got = self._file.readinto(buffer[done : self._size])  # type: ignore[attr-defined]
            if not got:
                raise CheckpointError(
                    f"{self._region.path} became shorter while it was read", hint="run the command again"
                )
            done += got
        return done


class _Lending:
    """Buffer filler that copies from memory."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def __call__(self, buffer: memoryview) -> int:
        buffer[: len(self._data)] = self._data
        return len(self._data)

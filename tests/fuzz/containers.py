"""Damage containers: safetensors headers, pickles, zip archives, npz files and PNG chunks."""

from __future__ import annotations

import io
import json
import pickletools
import struct
import warnings
import zipfile
import zlib
from random import Random

from tests.fuzz.mutators import TEXTS, Mutator, bytes_changed, json_text, value_changed


def safetensors_changed(data: bytes, chance: Random) -> bytes:
    """Change the header of a safetensors file: entries, offsets, the JSON texts in its metadata; or bytes."""
    if chance.random() < 0.15:
        return bytes_changed(data, chance)
    length = struct.unpack("<Q", data[:8])[0]
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.get("__metadata__", {})
    names = [name for name in header if name != "__metadata__"]
    if metadata and chance.random() < 0.6:
        key = chance.choice(list(metadata))
        try:
            value = json.loads(metadata[key])
        except ValueError:
            value = metadata[key]
        changed = json_text(value_changed(value, chance), chance)
        metadata[key] = changed.decode("utf-8", "replace")
    elif chance.random() < 0.5:
        a, b = chance.choice(names), chance.choice(names)
        header[a] = chance.choice((header[b], header[a] | {"data_offsets": header[b]["data_offsets"]}))
    else:
        name = chance.choice(names)
        header[name] = value_changed(header[name], chance)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    if chance.random() < 0.1:
        tensors = chance.choice((tensors[:-1], tensors + b"\0", tensors[64:] + tensors[:64], b"\0" * len(tensors)))
    declared = len(text) if chance.random() < 0.9 else chance.choice((0, 1, len(text) - 1, 2**40, 2**64 - 1))
    return struct.pack("<Q", declared) + text + tensors


SNIPPETS = (
    b"]" * 5000,
    b"(" * 5000,
    b"r\xff\xff\xff\x0f",
    b"X\xff\xff\xff\x7f",
    b"\x8b\xff\xff\xff\x7f",
    b"cos\nsystem\n(X\x04\0\0\0truetR",
    b"ctorch\ndevice\nX\x03\0\0\0cpu\x85R",
    b"}b",
    b"N",
    b"0",
    b"0" * 3,
    b"a",
    b"s",
    b"u",
    b"R",
    b"Q",
    b"\x8a\xff" + b"\x7f" * 255,
    b"G\x7f\xf8\0\0\0\0\0\0",
    b"K\x01K\x02",
    b"ccollections\nOrderedDict\n)R",
    b"cargparse\nNamespace\n)\x81}b",
    b"cnumpy.core.multiarray\nscalar\n",
)
"""Pieces of pickles: deep nesting, memo indices and lengths beyond the file, calls, builds without an object."""


def pickle_changed(data: bytes, chance: Random) -> bytes:
    """Remove, repeat, exchange or add opcodes of a pickle."""
    places = [place for _, _, place in pickletools.genops(data) if place is not None]
    ops = [data[a:b] for a, b in zip(places, [*places[1:], len(data)], strict=True)]
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(ops))
        kind = chance.randrange(5)
        if kind == 0:
            del ops[at]
        elif kind == 1:
            ops[at] = ops[at] * chance.choice((2, 3, 1000))
        elif kind == 2:
            ops[at] = chance.choice(ops)
        elif kind == 3:
            ops.insert(at, chance.choice(SNIPPETS))
        else:
            ops[at] = bytes_changed(ops[at], chance)
        ops = ops or [b"."]
    return b"".join(ops)


def zip_changed(data: bytes, chance: Random, inner: Mutator = bytes_changed) -> bytes:
    """Rebuild a zip archive with one record changed, missing, twice, compressed or huge, or change its bytes."""
    if chance.random() < 0.2:
        return bytes_changed(data, chance)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    # The small records say what the large ones are.
    at = (
        min(chance.randrange(len(records)) for _ in range(2))
        if chance.random() < 0.7
        else chance.randrange(len(records))
    )
    name, content = records[at]
    kind = chance.randrange(9)
    if kind == 0:
        del records[at]
    elif kind == 1:
        records.insert(at, (name, content[: len(content) // 2]))
    elif kind == 2:
        records[at] = (chance.choice((*TEXTS[1:6], name + "x", "../" + name)), content)
    elif kind == 3:
        records[at] = (name, bytes(chance.choice((0, 1, 300 << 20))))
    else:
        records[at] = (name, inner(content, chance) if content else b"\0")
    method = chance.choice((0, 0, 0, 8, 12, 14)) if kind != 3 else 8
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", method) as archive:
        warnings.simplefilter("ignore")
        for record, text in records:
            archive.writestr(zipfile.ZipInfo(record.replace("\ud800", "?")), text, compress_type=method)
    rebuilt = bytearray(target.getvalue())
    if chance.random() < 0.15:  # flags of the directory: encryption, methods, checksums, sizes
        entry = rebuilt.find(b"PK\x01\x02")
        rebuilt[entry + chance.randrange(6, 46)] ^= 1 << chance.randrange(8)
    return bytes(rebuilt)


def torch_zip_changed(data: bytes, chance: Random) -> bytes:
    """Change a file of `torch.save`: mostly its pickle."""

    def inner(content: bytes, chance: Random) -> bytes:
        is_pickle = content[:1] == b"\x80" and content[-1:] == b"."
        return (
            pickle_changed(content, chance) if is_pickle and chance.random() < 0.8 else bytes_changed(content, chance)
        )

    return zip_changed(data, chance, inner)


def npy_changed(data: bytes, chance: Random) -> bytes:
    """Change an npy file's header, or its values to numbers that are no statistics."""
    kind = chance.randrange(4)
    if kind == 0:
        return data[: -8 * 5] + struct.pack("<5d", *(chance.choice((float("nan"), 1e308, -1e9, 0.0)) for _ in range(5)))
    if kind == 1:
        header = data[10:128]
        swaps = (
            (b"<f8", b"<f2"),
            (b"|u1", b"|i1"),
            (b"|u1", b"|O "),
            (b"False", b"True "),
            (b"(", b"(-"),
            (b"(", b"(9999999999, "),
        )
        old, new = chance.choice(swaps)
        return data[:10] + header.replace(old, new, 1)[: len(header)].ljust(len(header)) + data[128:]
    return bytes_changed(data[:128], chance) + data[128:] if kind == 2 else bytes_changed(data, chance)


def npz_changed(data: bytes, chance: Random) -> bytes:
    """Change an npz file: its records, their headers, their values."""
    return zip_changed(data, chance, npy_changed)


def png_changed(data: bytes, chance: Random) -> bytes:
    """Change a PNG's chunks with right checksums, or its bytes."""
    if chance.random() < 0.5 or not data.startswith(b"\x89PNG"):
        return bytes_changed(data, chance)
    chunks, at = [], 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    extra = chance.choice(
        (
            (b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20))),
            (b"IHDR", struct.pack(">IIBBBBB", *(chance.choice((0, 1, 8, 100_000)) for _ in range(2)), 8, 2, 0, 0, 0)),
            (b"iCCP", b"x\0\0" + chance.randbytes(30)),
            (b"PLTE", chance.randbytes(7)),
            (b"eXIf", chance.randbytes(60)),
            (b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        )
    )
    kind = chance.randrange(3)
    if kind == 0:
        chunks[0] = extra if extra[0] == b"IHDR" else chunks[0]
    chunks.insert(1, extra) if kind == 1 else chunks.pop(chance.randrange(len(chunks)))
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return data[:8] + b"".join(parts)

"""Damage inputs: seeded changes of bytes, JSON and text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]

NUMBERS = (0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 1e-320, 2**31, 2**32, 2**63, 2**64, 10**30, -(10**30), 255, 65536)
TEXTS = (
    "",
    "x",
    "\0",
    "nan",
    "1_6",
    "٤",
    "../" * 40 + "etc/passwd",
    "a" * 100_000,
    "\ud800",
    "%s%n",
    "/dev/zero",
    "é" * 500,
)
HOSTILE = (
    None,
    True,
    False,
    [],
    {},
    float("nan"),
    float("inf"),
    -float("inf"),
    *NUMBERS,
    *TEXTS,
    [[]],
    {"": None},
    [0] * 5000,
)


def bytes_changed(data: bytes, chance: Random) -> bytes:
    """Cut, flip, overwrite, insert, repeat or remove some bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5, 20))):
        at = (
            chance.randrange(len(changed) + 1)
            if chance.random() < 0.6
            else chance.randrange(min(len(changed), 200) + 1)
        )
        kind = chance.randrange(7)
        if kind == 0:
            del changed[at:]
        elif kind == 1 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            size = chance.choice((1, 2, 4, 8))
            changed[at : at + size] = chance.choice((b"\0" * size, b"\xff" * size, chance.randbytes(size)))
        elif kind == 3:
            changed[at:at] = chance.randbytes(chance.choice((1, 7, 100)))
        elif kind == 4:
            changed[at:at] = changed[at : at + chance.choice((1, 16, 300))] * chance.choice((1, 2, 50))
        elif kind == 5:
            del changed[at : at + chance.choice((1, 4, 100))]
        else:
            changed += chance.choice((b"\0", b"\n", chance.randbytes(50), bytes(changed[:50])))
    return bytes(changed)


def replace_file(path: Path, chance: Random) -> None:
    """Put something else where a file is: a pipe, a device, a folder, links that lead nowhere or in a circle."""
    path.unlink()
    kind = chance.randrange(6)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.touch()
    else:
        path.symlink_to((path.name, "nowhere", "/dev/zero")[kind - 3])


def plan_changed(data: bytes, chance: Random) -> bytes:
    """Change a plan file, mostly without the hash that would give it away."""
    value = json.loads(data)
    if chance.random() < 0.8:
        del value["sha256"]
    return json_changed(json.dumps(value).encode(), chance)


def nested(chance: Random) -> Any:
    """Nest lists or objects more deeply than any file of ours."""
    value: Any = 0
    for _ in range(chance.choice((20, 900, 3000))):
        value = [value] if chance.random() < 0.5 else {"a": value}
    return value


def value_changed(value: Any, chance: Random) -> Any:
    """Change one value somewhere inside a JSON value: replaced, removed, doubled, or its type changed."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        return object_changed(value, key, chance)
    if isinstance(value, list) and value and chance.random() < 0.85:
        at, changed = chance.randrange(len(value)), list(value)
        kind = chance.randrange(5)
        if kind == 0:
            del changed[at]
        elif kind == 1:
            changed.insert(at, changed[at])
        else:
            changed[at] = value_changed(changed[at], chance)
        return changed
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.6:
        return chance.choice((*NUMBERS, -value, value + 1, value * 1000, str(value), [value]))
    return chance.choice(HOSTILE)


def object_changed(value: dict[str, Any], key: str, chance: Random) -> dict[str, Any]:
    """Change one member of an object."""
    kind = chance.randrange(8)
    if kind == 0:
        return {name: other for name, other in value.items() if name != key}
    if kind == 1:
        return {(name + "x" if name == key else name): other for name, other in value.items()}
    if kind == 2:
        return value | {chance.choice(TEXTS): chance.choice(HOSTILE)}
    if kind == 3:
        return value | {key: chance.choice(HOSTILE)}
    return value | {key: value_changed(value[key], chance)}


def json_text(value: Any, chance: Random) -> bytes:
    """Write JSON, now and then with a member twice or nested very deeply."""
    text = json.dumps(value)
    kind = chance.randrange(12)
    if kind == 0 and text.startswith("{"):
        text = text[:-1] + "," + text[1:]
    if kind == 1:
        deep = chance.choice((1000, 100_000))
        text = "[" * deep + text + "]" * deep
    return text.encode("utf-8", "surrogatepass")


def json_changed(data: bytes, chance: Random) -> bytes:
    """Change a JSON file as a structure, or as bytes."""
    if chance.random() < 0.2:
        return bytes_changed(data, chance)
    try:
        value = json.loads(data)
    except ValueError:  # an earlier change, or no JSON
        return bytes_changed(data, chance)
    for _ in range(chance.choice((1, 1, 2, 4))):
        value = value_changed(value, chance)
    return json_text(value, chance)


def lines_changed(data: bytes, chance: Random) -> bytes:
    """Change one line of a file of JSON lines, or an indented JSON file."""
    lines = data.splitlines(keepends=True)
    if data.startswith(b"{\n"):
        return json_changed(data, chance)
    if not lines or chance.random() < 0.2:
        return bytes_changed(data, chance)
    at = chance.randrange(len(lines))
    lines[at] = chance.choice((b"\n", lines[at] * 2, json_changed(lines[at].strip() or b"{}", chance) + b"\n"))
    return b"".join(lines)


def text_changed(data: bytes, chance: Random) -> bytes:
    """Change a text file by lines, words and numbers."""
    lines = data.decode().splitlines()
    at = chance.randrange(len(lines))
    words = lines[at].replace(",", " , ").split(" ")
    word = chance.randrange(len(words))
    words[word] = str(chance.choice(HOSTILE))[:2000]
    lines[at] = " ".join(words).replace(" , ", ",")
    if chance.random() < 0.3:
        lines.insert(at, lines[at])
    return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"

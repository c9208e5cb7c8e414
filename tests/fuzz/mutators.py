"""Damage inputs: seeded changes of bytes, JSON and text."""

from __future__ import annotations

import json
import os
import shutil
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


RECORD_CHANGES: tuple[tuple[str, Any], ...] = (
    ("index", -1),
    ("index", 10**8 - 1),
    ("index", 10**8),
    ("index", 2**63),
    ("index", 1.0),
    ("index", "1"),
    ("label", 99),
    ("label", 2**62),
    ("file", "../samp/000000.png"),
    ("file", "000000.png"),
    ("switch_steps", [1] * 300),
    ("switch_steps", [2**62]),
    ("switch_steps", [5, 2]),
    ("gmacs", 1e308),
    ("gmacs", float("nan")),
    ("gmacs", 0),
)
TEXT_CHANGES = (("0", "٠"), ("1", "１"), ("{", "\0{"), ('"', "'"), (": ", ":"), ("\n", "\r\n"), ("}", ', "x": 1}'))
SESSIONS = tuple(
    json.dumps({"session": value})
    for value in (
        {},
        None,
        {"images": 1e300, "seconds": 1},
        {"images": 1, "seconds": 1e308},
        {"images": 1, "seconds": -1},
    )
)


def record_lines_changed(data: bytes, chance: Random) -> bytes:
    """Change lines of images: hostile numbers, other digits, lines cut, doubled, exchanged or of another kind."""
    lines = data.decode().splitlines(keepends=True)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, kind = chance.randrange(len(lines)), chance.randrange(6)
        if kind == 0:
            lines[at] = lines[at][: chance.randrange(len(lines[at]))]
        elif kind == 1:
            lines.insert(at, chance.choice(lines) * chance.choice((1, 3, 2000)))
        elif kind == 2:
            lines.insert(at, chance.choice((*SESSIONS, "[" * 70_000, "\0" * 100_000, "x" * 3_000_000)) + "\n")
        elif kind == 3:
            lines[at] = lines[at].replace(*chance.choice(TEXT_CHANGES))
        elif lines[at].startswith("{") and "index" in lines[at]:
            try:
                record = json.loads(lines[at])
            except ValueError:  # an earlier change
                continue
            lines[at] = json.dumps(record | dict([chance.choice(RECORD_CHANGES)])) + "\n"
    return "".join(lines).encode()


def any_changed(data: bytes, chance: Random) -> bytes:
    """Change JSON as JSON, and anything else as bytes."""
    return json_changed(data, chance) if data.lstrip()[:1] in (b"{", b"[") else bytes_changed(data, chance)


def folder_changed(folder: Path, chance: Random) -> None:
    """Damage a folder of samples: links out of it and in circles, other pictures, files of another folder."""
    pictures = sorted(folder.glob("0*.png"))
    picture, kind = chance.choice(pictures), chance.randrange(8)
    if kind == 0:
        picture.unlink()
    elif kind == 1:
        other_picture(picture, chance.choice((1, 8, 9, 4000)))
    elif kind == 2:
        picture.unlink()
        picture.symlink_to(chance.choice(("/dev/zero", "/etc/passwd", picture.name, "../pix.safetensors", "..")))
    elif kind == 3:
        name = chance.choice((".processes", ".lock", "images.jsonl", "manifest.json", "latents", "samples.npz"))
        remove(folder / name)
        (folder / name).symlink_to(
            chance.choice(("..", name, "/dev/zero", "../samp", "../samp/images.jsonl", "/proc/1"))
        )
    elif kind == 4:
        other = folder.parent / chance.choice(("samp", "planned", "part-1"))
        (folder / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    elif kind == 5:
        shutil.copy(chance.choice(pictures), folder / f"{chance.randrange(10**6):06d}.png")
    elif kind == 6:
        remove(folder)
        folder.symlink_to(chance.choice((folder.name, "samp", ".", "/", "pix.safetensors")))
    else:
        picture.write_bytes(chance.choice(pictures).read_bytes())


def other_picture(path: Path, side: int) -> None:
    """Replace a picture by a white one of another size."""
    from PIL import Image

    Image.new("RGB", (side, side), "white").save(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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

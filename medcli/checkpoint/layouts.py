"""Find out what a path holds, by its contents, and list its sets of tensors under upstream's names."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medcli.checkpoint.diffusers_folder import DiffusersConfig, read_folder
from medcli.checkpoint.header import Header
from medcli.checkpoint.keymap import is_derived, strip_wrappers
from medcli.checkpoint.safetensors_file import read_safetensors
from medcli.checkpoint.tensor_record import TensorRecord
from medcli.checkpoint.torch_file import TorchFile, read_legacy, read_zip
from medcli.checkpoint.unpickle import TensorRef
from medcli.errors import CheckpointError, listed

Layout = Literal["official", "training", "diffusers", "medcli"]

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
WEIGHT_SETS = ("ema", "model")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawCheckpoint:
    """The tensors of a checkpoint and what it says about itself; nothing is inferred or checked yet."""

    path: Path
    layout: Layout
    sets: Mapping[str, Mapping[str, TensorRecord]]
    """Tensors under upstream's names, by weight set: `model`, `ema` or both."""
    parts: tuple[str, ...] = ()
    """Groups a training checkpoint holds, `opt` included."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Training settings, where the file has them."""
    header: Header | None = None
    folder_config: DiffusersConfig | None = None

    def pick(self, weights: str | None) -> tuple[str, Mapping[str, TensorRecord]]:
        """Choose a weight set; a file of one unnamed set gives that one, and so does None.

        Args:
            weights: `ema` or `model`; None takes the averaged weights where there are any.

        Returns:
            Name of the set, and its tensors.

        Raises:
            CheckpointError: If a training checkpoint lacks the set.
        """
        if weights is not None and weights in self.sets:
            return weights, self.sets[weights]
        if weights is not None and self.layout == "training":
            title, other = ("EMA", "model") if weights == "ema" else ("model", "ema")
            raise CheckpointError(
                f"{self.path.name} has no {title} weights (found: {', '.join(self.parts)})",
                hint=f"pass --weights {other} to use the other set",
            )
        return next(iter(self.sets.items()))


def open_raw(path: Path) -> RawCheckpoint:
    """Recognise a checkpoint and list its tensors, reading no weights.

    Raises:
        CheckpointError: If there is nothing, or something else, or a damaged file.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path} does not exist", hint=_hint_for_missing(path))
        if path.is_dir():
            folder_config, tensors = read_folder(path, file_tensors)
            return RawCheckpoint(
                path=path, layout="diffusers", sets={"model": tensors}, parts=("model",), folder_config=folder_config
            )
        if not path.is_file():  # a pipe can't be read twice, and opening one waits for a writer
            raise CheckpointError(f"{path} is a pipe or a device, expected a file", hint="save it to a file first")
        return _open_file(path)
    except PermissionError as err:
        raise CheckpointError(f"{path} may not be read by this user", hint=f"chmod u+r {err.filename or path}") from err
    except OSError as err:
        if err.errno != errno.ENAMETOOLONG:
            raise
        raise CheckpointError(f"{path} does not exist: its name is too long", hint="check the path") from err


def _open_file(path: Path) -> RawCheckpoint:
    kind = sniff(path)
    if kind == "safetensors":
        tensors, metadata = read_safetensors(path)
        header = Header.from_metadata(metadata, path.name)
        name = header.weights if header else "model"
        layout: Layout = "medcli" if header else "official"
        return RawCheckpoint(path=path, layout=layout, sets={name: _bare(tensors, path)}, parts=(name,), header=header)
    file = TORCH_READERS[kind](path)
    groups = _weight_groups(file)
    if groups is None:
        return RawCheckpoint(path=path, layout="official", sets={"model": _named(file, file.content)}, parts=("model",))
    content: Mapping[str, Any] = file.content
    return RawCheckpoint(
        path=path,
        layout="training",
        sets={name: _named(file, content[name]) for name in groups},
        parts=tuple(str(name) for name, value in content.items() if isinstance(value, Mapping)),
        args=_settings(content.get("args")),
    )


def file_tensors(path: Path) -> dict[str, TensorRecord]:
    """Tensors of a file that holds nothing else, under the names it gives them."""
    kind = sniff(path)
    if kind == "safetensors":
        return read_safetensors(path)[0]
    file = TORCH_READERS[kind](path)
    return _named(file, file.content)


TORCH_READERS: dict[str, Callable[[Path], TorchFile]] = {"zip": read_zip, "legacy": read_legacy}


def sniff(path: Path) -> str:
    """Tell a file's container by its first bytes: `zip`, `legacy` (torch's two) or `safetensors`.

    Raises:
        CheckpointError: If it is none of them; says what it looks like.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return "legacy"
    # A safetensors header is a JSON object behind its 8-byte length; the suffix decides for what is damaged early.
    if start[8:9] == b"{" or (path.suffix == ".safetensors" and len(start) > 0 and not _is_text(start)):
        return "safetensors"
    raise CheckpointError(f"{path.name} {_looks_like(start)}", hint=_hint_for_other(start))


def _is_text(start: bytes) -> bool:
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start)


def _looks_like(start: bytes) -> str:
    if not start:
        return "is empty (0 bytes), expected a checkpoint"
    lowered = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if lowered.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not a checkpoint: the download saved a login or error page"
    if lowered.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the checkpoint itself"
    return f"is not a checkpoint: expected a torch or safetensors file ({', '.join(SUFFIXES)})"


def _hint_for_other(start: bytes) -> str:
    return (
        "git lfs pull" if b"git-lfs" in start else "download the file again, from the link that gives the file itself"
    )


def _hint_for_missing(path: Path) -> str:
    folder = path.parent
    names = [file.name for file in folder.iterdir() if file.suffix in SUFFIXES] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
    if near:
        return f"did you mean {folder / near[0]}?"
    return f"checkpoints in {folder}: {listed(sorted(names))}" if names else "check the path; ls shows what is there"


def _weight_groups(file: TorchFile) -> list[str] | None:
    """Names of the weight sets of a training checkpoint; None for a bare state dict.

    Raises:
        CheckpointError: If the file holds neither.
    """
    content = file.content
    if isinstance(content, Mapping) and content:
        groups = [name for name in WEIGHT_SETS if isinstance(content.get(name), Mapping)]
        if groups:
            return groups
        if all(isinstance(value, TensorRef) for value in content.values()):
            return None
    found = (
        listed([str(key) for key in content]) if isinstance(content, Mapping) and content else type(content).__name__
    )
    raise CheckpointError(
        f"{file.path.name} holds no state dict (found: {found})",
        hint="expected tensors by name, or a training checkpoint with the key 'model' or 'ema'",
    )


def _named(file: TorchFile, tensors: Any) -> dict[str, TensorRecord]:
    """Entries of a mapping from names to tensors, with wrapper prefixes taken off."""
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(ref, TensorRef) for name, ref in tensors.items()
    ):
        raise CheckpointError(
            f"{file.path.name} has values that are no tensors in its state dict",
            hint="save the model's state dict alone with torch.save(model.state_dict(), path)",
        )
    return _bare({name: file.record(name, ref) for name, ref in tensors.items()}, file.path)


def _bare(tensors: Mapping[str, TensorRecord], path: Path) -> dict[str, TensorRecord]:
    bare_names = strip_wrappers(tensors, path.name).items()
    return {bare: tensors[name].renamed(bare) for name, bare in bare_names if not is_derived(bare)}


def _settings(args: Any) -> dict[str, Any]:
    """Training settings as a table, whether pickled as a Namespace or a dictionary."""
    values = args if isinstance(args, Mapping) else getattr(args, "__dict__", {})
    return {str(key): value for key, value in values.items()}

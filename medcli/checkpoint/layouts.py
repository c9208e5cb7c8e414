"""Detect the layout of a checkpoint by its contents, and list its weight sets under upstream's names."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medcli.checkpoint.diffusers_folder import DiffusersConfig, read_folder, sharded_tensors, weight_file
from medcli.checkpoint.header import Header
from medcli.checkpoint.hub import PREFIX, download_command, is_hub_name
from medcli.checkpoint.keymap import is_derived, strip_wrappers
from medcli.checkpoint.pickle_values import TensorRef
from medcli.checkpoint.plain_folder import SUFFIXES, plain_weights
from medcli.checkpoint.run_state import newest_of_run, state_header, state_sets
from medcli.checkpoint.safetensors_file import read_safetensors
from medcli.checkpoint.tensor_record import TensorRecord
from medcli.checkpoint.torch_file import TorchFile, read_legacy, read_zip
from medcli.checkpoint.training_args import training_args
from medcli.checkpoint.weight_sets import find_weights, largest_set
from medcli.errors import CheckpointError, listed

Layout = Literal["official", "training", "diffusers", "medcli"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RawCheckpoint:
    """Tensors and metadata of a checkpoint; nothing is inferred or checked yet."""

    path: Path
    layout: Layout
    sets: Mapping[str, Mapping[str, TensorRecord]]
    """Tensors under upstream's names, by weight set: `model`, `ema` or both."""
    parts: tuple[str, ...] = ()
    """Groups a training checkpoint holds, `opt` included."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Training settings stored in the file."""
    keys: tuple[str, ...] = ()
    """Names of all that a training checkpoint holds."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Sampling settings that belong to the weights, beside those of `args`."""
    left_out: tuple[str, ...] = ()
    """Names of tensors that serve training alone."""
    rewritten: tuple[str, ...] = ()
    """Names of tensors with other numbers than the file's."""
    header: Header | None = None
    is_official: bool = True
    """True: weight sets are under the keys of the reference code."""
    remarks: tuple[str, ...] = ()
    """Notes for the user, such as which weights were found and what was left out."""
    folder_config: DiffusersConfig | None = None
    autoencoder_folder: Path | None = None
    """The autoencoder of a pipeline folder."""
    class_names: tuple[str, ...] = ()
    """Name of each class, of a pipeline folder that has them."""

    def pick(self, weights: str | None) -> tuple[str, Mapping[str, TensorRecord]]:
        """Choose a weight set; of a file with one unnamed set, that one.

        Args:
            weights: `ema` or `model`; None: the averaged weights if there are some.

        Returns:
            Name of the set, and its tensors.

        Raises:
            CheckpointError: If a training checkpoint lacks the set, or raw weights are asked of averaged ones.
        """
        if weights is not None and weights in self.sets:
            return weights, self.sets[weights]
        if weights is not None and self.layout == "training" and self.is_official:
            title, other = ("EMA", "model") if weights == "ema" else ("model", "ema")
            raise CheckpointError(
                f"{self.path.name} has no {title} weights (found: {', '.join(self.parts)})",
                hint=f"pass --weights {other} to use the other set",
            )
        if weights == "model" and "model" not in self.sets:  # "ema" is the default, so it may not have been asked for
            raise CheckpointError(f"{self.path.name} holds averaged weights alone", hint="leave --weights out")
        return next(iter(self.sets.items()))


def open_raw(path: Path) -> RawCheckpoint:
    """Detect a checkpoint's layout and list its tensors, reading no weights.

    Raises:
        CheckpointError: If it is missing, damaged or no checkpoint.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path} does not exist", hint=_hint_for_missing(path))
        if path.is_dir() and (newest := newest_of_run(path)) is not None:
            return _open_file(newest)
        if path.is_dir() and (plain := plain_weights(path)) is not None:
            return _open_plain(path, plain)
        if path.is_dir():
            folder = read_folder(path, file_tensors)
            return RawCheckpoint(
                path=path,
                layout="diffusers",
                sets={"model": folder.tensors},
                parts=("model",),
                folder_config=folder.config,
                autoencoder_folder=folder.autoencoder,
                remarks=folder.remarks,
                class_names=folder.class_names,
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
        if (header := Header.from_metadata(metadata, path.name)) is not None:
            sets = {header.weights: _stripped(tensors, path)}
            return RawCheckpoint(path=path, layout="medcli", sets=sets, parts=(header.weights,), header=header)
        if (header := state_header(metadata, path.name)) is not None:
            sets = state_sets(tensors)
            return RawCheckpoint(path=path, layout="medcli", sets=sets, parts=tuple(sets), header=header)
        return _found(path, tensors, lambda name, record: record.renamed(name))
    file = TORCH_READERS[kind](path)
    return _found(path, file.content, file.record)


def _open_plain(folder: Path, file: Path) -> RawCheckpoint:
    """Open the only weights of a folder: one file, or the shards of an index."""
    if file.suffix != ".json":
        raw = _open_file(file)
        return replace(raw, remarks=(f"the weights are those of {file.name}", *raw.remarks))
    return _found(folder, sharded_tensors(file, file_tensors), lambda name, record: record.renamed(name))


def _found(path: Path, content: Any, record_of: Callable[[str, Any], TensorRecord]) -> RawCheckpoint:
    """Find the weights in a file's contents; `record_of` gives the record of a tensor under a name."""
    found = find_weights(content, path.name)
    sets = {name: _bare({key: record_of(key, ref) for key, ref in refs.items()}) for name, refs in found.sets.items()}
    outer = content if isinstance(content, Mapping) else {}
    return RawCheckpoint(
        path=path,
        layout="training" if found.is_nested else "official",
        sets=sets,
        is_official=found.is_official,
        parts=tuple(str(name)[:60] for name, value in outer.items() if isinstance(value, Mapping)),
        keys=tuple(str(name)[:60] for name in outer if not isinstance(name, str) or "." not in name)
        if found.is_nested
        else (),
        args=training_args(outer),
        remarks=found.remarks,
    )


def file_content(path: Path) -> TorchFile:
    """Read what torch saved in a file, without the tensors' numbers.

    Raises:
        CheckpointError: If it is no such file, or damaged.
    """
    kind = sniff(path)
    if kind not in TORCH_READERS:
        raise CheckpointError(f"{path} is no file of torch.save", hint="copy or download it again")
    return TORCH_READERS[kind](path)


def folder_weights(folder: Path) -> dict[str, TensorRecord]:
    """List the tensors of a diffusers model's folder, of one file or of shards.

    Raises:
        CheckpointError: If there are none, or files are missing or damaged.
    """
    file, _ = weight_file(folder)
    return sharded_tensors(file, file_tensors) if file.suffix == ".json" else file_tensors(file)


def tensors_in(path: Path) -> dict[str, TensorRecord]:
    """Return the largest set of tensors by name in a file of any container, under the names it gives them.

    Raises:
        CheckpointError: If it is no such file, damaged, or holds none.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is no file", hint="check the path")
    if sniff(path) == "safetensors":
        return read_safetensors(path)[0]
    file = file_content(path)
    return {name: file.record(name, ref) for name, ref in largest_set(file.content, path.name).items()}


def file_tensors(path: Path) -> dict[str, TensorRecord]:
    """Read the tensors of a plain state-dict file, under its own names."""
    kind = sniff(path)
    if kind == "safetensors":
        return read_safetensors(path)[0]
    file = TORCH_READERS[kind](path)
    return _named(file, file.content)


TORCH_READERS: dict[str, Callable[[Path], TorchFile]] = {"zip": read_zip, "legacy": read_legacy}


def sniff(path: Path) -> str:
    """Detect a file's container by its first bytes: `zip` or `legacy` (torch's two), or `safetensors`.

    Raises:
        CheckpointError: If it is none of them; the message names its likely kind.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    # A safetensors header is a JSON object behind its 8-byte length, whose first two bytes may be those of a pickle.
    if start[4:9] == b"\0\0\0\0{":
        return "safetensors"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return "legacy"
    # The suffix decides for what is damaged early.
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
    if not folder.is_dir() and is_hub_name(str(path)):
        return f"if it is a name of the hub: {download_command(str(path))}; or write {PREFIX}{path}"
    return f"checkpoints in {folder}: {listed(sorted(names))}" if names else "check the path; ls shows what is there"


def _named(file: TorchFile, tensors: Any) -> dict[str, TensorRecord]:
    """Return the records of a state dict that holds nothing but tensors, with wrapper prefixes stripped."""
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(ref, TensorRef) for name, ref in tensors.items()
    ):
        raise CheckpointError(
            f"{file.path.name} has values that are no tensors in its state dict",
            hint="save the model's state dict alone with torch.save(model.state_dict(), path)",
        )
    return _stripped({name: file.record(name, ref) for name, ref in tensors.items()}, file.path)


def _stripped(tensors: Mapping[str, TensorRecord], path: Path) -> dict[str, TensorRecord]:
    names = strip_wrappers(tensors, path.name)
    return _bare({bare: tensors[name].renamed(bare) for name, bare in names.items()})


def _bare(tensors: Mapping[str, TensorRecord]) -> dict[str, TensorRecord]:
    """Remove tensors that are computed from the configuration."""
    return {name: tensor for name, tensor in tensors.items() if not is_derived(name)}

"""Find the sets of weights in a file by their tensors, under any key and prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from medcli.checkpoint.keymap import strip_wrappers
from medcli.checkpoint.pickle_values import Inert, TensorRef
from medcli.checkpoint.tensor_record import TensorRecord
from medcli.errors import CheckpointError, listed

ANCHOR = "x_embedder.proj.weight"
"""A tensor that every known model has once."""
TENSORS = (TensorRef, TensorRecord)
MAX_DEPTH = 4
"""Levels of containers that are searched."""
EMA_NAME = re.compile(r"(?<![a-z])(ema|averaged|shadow|swa)(?![a-z])")
"""A word in a key or prefix of averaged weights."""
ONLINE_NAME = "online_model"
"""Key of ema-pytorch for the weights that are averaged, beside their average."""
AVERAGE_COUNTER = "n_averaged"
"""A number that torch's AveragedModel keeps beside its weights."""


@dataclass(frozen=True, slots=True)
class WeightSets:
    """Sets of weights in a file."""

    sets: Mapping[str, Mapping[str, Any]]
    """Tensors by bare name, by `model` and `ema`."""
    is_nested: bool
    """True: they are under keys of a training file; False: the file is a state dict."""
    is_official: bool
    """True: the keys are those of the reference code."""
    remarks: tuple[str, ...] = ()


@dataclass(slots=True)
class _Candidate:
    """Tensors of one model."""

    path: tuple[str, ...]
    """Keys of the containers around it."""
    prefix: str
    """Common start of the tensors' names."""
    tensors: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    """Values among the tensors that are none."""

    @property
    def kind(self) -> str:
        """`ema` or `model`."""
        words = ".".join((*self.path, self.prefix)).lower()
        if ONLINE_NAME in self.prefix:
            return "model"
        return "ema" if EMA_NAME.search(words) or AVERAGE_COUNTER in self.tensors else "model"

    @property
    def key(self) -> str:
        """Name of the set in messages."""
        return ".".join((*self.path, *([self.prefix.rstrip(".")] if self.prefix else []))) or "the file itself"

    @property
    def is_official(self) -> bool:
        return not self.prefix and self.path in ((), (self.kind,))


def find_weights(content: Any, source: str) -> WeightSets:
    """Find the sets of weights in a file.

    Args:
        content: Containers with `TensorRef` or `TensorRecord` for each tensor.
        source: Name of the file in error messages.

    Raises:
        CheckpointError: If there is none, or several of one kind, or one holds values that are no tensors.
    """
    found = [candidate for path, mapping in _mappings(content) for candidate in _candidates(path, mapping, source)]
    if not found:
        return _unknown(content, source)
    chosen: dict[str, _Candidate] = {}
    for kind in ("ema", "model"):
        if mine := [candidate for candidate in found if candidate.kind == kind]:
            chosen[kind] = _only(mine, source)
    remarks = [remark for candidate in chosen.values() for remark in _clean(candidate, source)]
    return WeightSets(
        sets={kind: candidate.tensors for kind, candidate in chosen.items()},
        is_nested=any(candidate.path for candidate in chosen.values()),
        is_official=all(candidate.is_official for candidate in chosen.values()),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _mappings(content: Any) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yield the dictionaries in a file and the keys that lead there, outer ones first; each is searched once."""
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), content)]
    for _ in range(MAX_DEPTH):
        following: list[tuple[tuple[str, ...], Any]] = []
        for path, value in level:
            mapping = value.settings if isinstance(value, Inert) else value
            if not isinstance(mapping, Mapping):
                continue
            yield path, mapping  # the same one may be under two keys: a file saved before averaging began
            if id(mapping) in seen:
                continue
            seen.add(id(mapping))
            following += [
                ((*path, str(key)), inner) for key, inner in mapping.items() if isinstance(inner, Mapping | Inert)
            ]
        level = following


def _candidates(path: tuple[str, ...], mapping: Mapping[Any, Any], source: str) -> list[_Candidate]:
    """Return the models whose tensors are in one dictionary, each with the names behind its own prefix."""
    anchors = [name for name, value in mapping.items() if isinstance(name, str) and name.endswith(ANCHOR)]
    if not any(isinstance(mapping[name], TENSORS) for name in anchors):
        return []
    bare = strip_wrappers((name for name in mapping if isinstance(name, str)), source)
    prefixes = sorted((bare[name].removesuffix(ANCHOR) for name in anchors), key=len, reverse=True)
    made = {prefix: _Candidate(path, prefix) for prefix in prefixes}
    for name, short in bare.items():
        owner = next((prefix for prefix in prefixes if short.startswith(prefix)), None)
        if owner is not None:
            group = made[owner].tensors if isinstance(mapping[name], TENSORS) else made[owner].others
            group[short.removeprefix(owner)] = mapping[name]
        elif short == AVERAGE_COUNTER and isinstance(mapping[name], TENSORS):
            made[prefixes[0]].tensors[AVERAGE_COUNTER] = mapping[name]
    return [made[prefix] for prefix in reversed(prefixes)]


def _only(candidates: list[_Candidate], source: str) -> _Candidate:
    """Return the only set of its kind; the one under the reference code's key comes first."""
    official = [candidate for candidate in candidates if candidate.is_official]
    if len(official) == 1 or all(one.tensors == candidates[0].tensors for one in candidates):
        return (official or candidates)[0]
    keys = listed([candidate.key for candidate in candidates])
    raise CheckpointError(
        f"{source} holds {len(candidates)} sets of weights ({keys})",
        hint="save the one that is meant by itself: torch.save(checkpoint[KEY], path)",
    )


def _clean(candidate: _Candidate, source: str) -> list[str]:
    """Drop what is no weight; returns remarks.

    Raises:
        CheckpointError: If a value in a tensor's place is no tensor.
    """
    for name, value in candidate.others.items():
        if isinstance(value, Inert) and "." in name:
            raise CheckpointError(
                f"{source}: {name[:100]} is {value}, not a tensor",
                hint="save tensors: torch.save(model.state_dict(), path)",
            )
    remarks = [] if candidate.is_official else [f"the weights are those under {candidate.key}"]
    counters = [name for name, tensor in candidate.tensors.items() if tensor.shape == ()]
    for name in counters:
        del candidate.tensors[name]
    names = [*candidate.others, *counters]
    if names:
        remarks.append(f"{listed([name[:60] for name in names], 3)} among the weights left out: no weights")
    return remarks


def _unknown(content: Any, source: str) -> WeightSets:
    """Return the tensors of a file that holds no known model, for the message that says so.

    Raises:
        CheckpointError: If there are no tensors by name.
    """
    best = largest_set(content, source)
    bare = strip_wrappers(best, source)
    return WeightSets({"model": {bare[name]: ref for name, ref in best.items()}}, False, True)


def largest_set(content: Any, source: str) -> dict[str, Any]:
    """Return the largest dictionary of tensors in a file.

    Args:
        content: See `find_weights`.
        source: Name of the file in error messages.

    Raises:
        CheckpointError: If there are no tensors by name.
    """
    best: dict[str, Any] = {}
    for _, mapping in _mappings(content):
        named = {name: ref for name, ref in mapping.items() if isinstance(name, str) and isinstance(ref, TENSORS)}
        best = max(best, named, key=len)
    if best:
        return best
    keys = [str(key)[:60] for key in content] if isinstance(content, Mapping) and content else []
    found = listed(keys) if keys else type(content).__name__
    raise CheckpointError(
        f"{source} holds no state dict (found: {found})",
        hint="expected tensors by name, or a training checkpoint with the key 'model' or 'ema'",
    )

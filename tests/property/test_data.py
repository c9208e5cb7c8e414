"""A row of a training set is a function of its pick, its position and the seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medcli.data.datasets import open_training_set
from medcli.data.name_list import NameList
from medcli.data.training_set import TrainingSet
from tests.unit.data.test_external_latents import save_fast_dit, save_lightning, save_repa
from tests.unit.data.tiny_data import LATENTS, PIXELS, save_classes, save_store

NUM_IMAGES = 9

Draws = list[tuple[int, int]]
draws = st.lists(st.tuples(st.integers(0, NUM_IMAGES - 1), st.integers(0, 2**40)), min_size=1, max_size=12)
seeds = st.integers(0, 2**64 - 1)


@cache
def opened(kind: str) -> TrainingSet:
    folder = Path(mkdtemp(prefix="medcli-data-"))
    if kind == "images":
        save_classes(folder, {"a": 4, "b": 5})
    elif kind == "store":
        save_store(folder, [0, 1, 2] * 3)
    else:
        make: Callable[[Path], Path] = {"fast": save_fast_dit, "repa": save_repa, "lightning": save_lightning}[kind]
        make(folder)
    return open_training_set(str(folder), PIXELS if kind == "images" else LATENTS)


def read(data: TrainingSet, rows: Draws, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    picks, positions = zip(*rows, strict=True)
    return data.read(torch.tensor(picks), torch.tensor(positions), seed)


@pytest.mark.parametrize("kind", ["images", "store", "fast", "repa", "lightning"])
@settings(max_examples=25, deadline=None)
@given(rows=draws, seed=seeds, cuts=st.lists(st.integers(1, 4), max_size=4))
def test_any_split_of_a_sequence_of_reads_gives_the_same_rows(
    kind: str, rows: Draws, seed: int, cuts: list[int]
) -> None:
    data = opened(kind)
    images_BCYX, labels_B = read(data, rows, seed)
    parts, start = [], 0
    for size in [*cuts, len(rows)]:
        parts += [rows[start : start + size]] if rows[start : start + size] else []
        start += size
    again = [read(data, part, seed) for part in parts]
    assert torch.equal(torch.cat([images for images, _ in again]), images_BCYX)
    assert torch.equal(torch.cat([labels for _, labels in again]), labels_B)
    backwards_BCYX, _ = read(data, rows[::-1], seed)
    assert torch.equal(backwards_BCYX.flip(0), images_BCYX)


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=("Cs",)))))
def test_a_list_of_names_gives_back_what_went_in(names: list[str]) -> None:
    assert list(NameList(names)) == names

"""Tensor files are those of the safetensors library, byte for byte."""

from __future__ import annotations

import os
import resource
import signal
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from medcli.errors import EnvironmentProblem
from medcli.runtime.tensor_files import CODES, write_tensors

NAMES = st.text('abé./"\\\n☃', min_size=1, max_size=6)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(list(CODES)), SHAPES), max_size=5), st.text(max_size=20))
def test_files_are_those_of_the_library(
    tmp_path_factory: pytest.TempPathFactory, layout: dict[str, tuple[torch.dtype, tuple[int, ...]]], note: str
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.safetensors"
    tensors = {
        name: torch.arange(torch.Size(shape).numel()).reshape(shape).to(kind) for name, (kind, shape) in layout.items()
    }
    write_tensors(path, tensors, {"note": note})
    assert path.read_bytes() == save(tensors, {"note": note})


def test_views_are_written_as_they_are_seen_and_the_umask_is_followed(tmp_path: Path) -> None:
    tensors = {"t": torch.arange(6.0).reshape(2, 3).T, "e": torch.ones(1).expand(4), "s": torch.arange(8)[::2]}
    before = os.umask(0o022)
    try:
        write_tensors(tmp_path / "x", tensors, {})
    finally:
        os.umask(before)
    assert all(torch.equal(found, tensors[name]) for name, found in load_file(tmp_path / "x").items())
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits on this system")
def test_a_limit_of_sizes_is_the_environments_problem_and_leaves_nothing(tmp_path: Path) -> None:
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(EnvironmentProblem, match="File too large"):
            write_tensors(tmp_path / "x", {"t": torch.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())

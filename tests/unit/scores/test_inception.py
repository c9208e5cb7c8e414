from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medcli.errors import DataError, EnvironmentProblem
from medcli.scores.inception import load_inception
from medcli.scores.inception_network import flatten_spatial


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_spatial_columns_run_over_row_column_and_the_first_seven_channels() -> None:
    channel, row, column = torch.meshgrid(torch.arange(9), torch.arange(3), torch.arange(4), indexing="ij")
    flat = flatten_spatial((100 * row + 10 * column + channel)[None])
    assert flat.shape == (1, 3 * 4 * 7)
    assert flat[0, (2 * 4 + 3) * 7 + 5] == 235


def test_missing_weights_name_the_file_and_the_option_and_fetch_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="weights-inception-2015-12-05-6726825d.pth") as caught:
        load_inception()
    assert "--extractor-weights" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_pickle_given_as_weights_is_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "mark"
    torch.save({"fc.weight": Malicious(mark)}, path)
    with pytest.raises(DataError, match="can't be read as network weights"):
        load_inception(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html></html>" * 20])
def test_damaged_weights_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = (tmp_path / "weights").with_suffix(suffix)
    path.write_bytes(content)
    with pytest.raises(DataError, match="can't be read as network weights"):
        load_inception(path)


def test_something_else_than_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"fc.weight": torch.zeros(2)}}, path)
    with pytest.raises(DataError, match="plain dictionary of tensors"):
        load_inception(path)


def test_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(DataError, match="another network") as caught:
        load_inception(path)
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message

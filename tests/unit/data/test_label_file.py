from __future__ import annotations

import os
from pathlib import Path

import pytest

from medcli.data.label_file import find_label_file, read_labels
from medcli.errors import DataError
from tests.unit.data.tiny_data import save_labels

PAIRS = {"a/1.png": 2, "b.png": 0}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset.json", {"labels": [["b.png", 0], ["a/1.png", 2]]}),
        ("labels.json", {"labels": {"b.png": 0, "a/1.png": 2}}),
        ("labels.json", {"b.png": 0, "a/1.png": 2}),
        ("labels.json", [["b.png", 0], ["a/1.png", 2]]),
        ("labels.csv", "b.png,0\na/1.png,2\n"),
        ("labels.csv", "path,label\nb.png,0\na/1.png,2"),
        ("labels.csv", '\ufefffile, class\r\nb.png, 0\r\n\r\n"a/1.png",2\r\n'),
        ("LABELS.CSV", "b.png,0\na/1.png,2\n"),
    ],
)
def test_every_form_of_labels_is_read_in_sorted_order(tmp_path: Path, name: str, content: object) -> None:
    labels = read_labels(save_labels(tmp_path / name, content))
    assert list(labels.items()) == list(PAIRS.items())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.json", {"labels": None}, "no labels"),
        ("l.json", {"labels": [["a.png", 1.5]]}, "the label of a.png is 1.5"),
        ("l.json", {"labels": [["a.png", True]]}, "is True"),
        ("l.json", {"labels": [["a.png", [0, 1]]]}, "whole number"),
        ("l.json", {"a.png": -1}, "is -1"),
        ("l.json", {"a.png": 2**31}, "whole number"),
        ("l.json", {}, "names no images"),
        ("l.json", [["a.png", 0], ["a.png", 1]], "names a.png twice"),
        ("l.json", [[3, 0]], "holds no labels"),
        ("l.json", ["a.png"], "holds no labels"),
        ("l.json", "{", "holds no labels"),
        ("l.json", "7", "holds no labels"),
        ("l.csv", "a.png,0\nb.png,cat\n", "the label of b.png is 'cat'"),
        ("l.csv", "a.png,0\nsecond,heading\n", "the label of second is 'heading'"),
        ("l.csv", "a.png,0,1\n", "holds no labels"),
        ("l.csv", "path,label\n", "names no images"),
        ("l.csv", "", "names no images"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(tmp_path: Path, name: str, content: object, said: str) -> None:
    path = save_labels(tmp_path / name, content)
    with pytest.raises(DataError, match=said) as caught:
        read_labels(path)
    assert caught.value.hint


def test_pictures_and_missing_files_are_no_labels(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="holds no labels"):
        read_labels(tmp_path / "a.json")
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "none.csv")


def test_the_first_known_name_is_the_file_of_labels(tmp_path: Path) -> None:
    assert find_label_file(tmp_path) is None
    for name in ("labels.csv", "labels.json", "dataset.json"):
        (tmp_path / name).touch()
        found = find_label_file(tmp_path)
        assert found is not None
        assert found.name == name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.json", '{"a.png": 1, "a.png": 2}', "names a.png twice"),
        ("l.json", '{"labels": {"a.png": 1, "a.png": 2}}', "names a.png twice"),
        ("l.json", '{"a.png": 0.5}', "is 0.5"),
        ("l.json", '{"a.png": 1e400}', "is inf"),
        ("l.json", '{"a.png": NaN}', "is nan"),
        ("l.json", '{"a.png": ' + "9" * 99 + "}", r"is 999.*\.\.\."),
        ("l.json", '{"a.png": ' + "9" * 9999 + "}", "holds no labels"),
        ("l.json", "[" * 100_000, "holds no labels"),
        ("l.csv", "a.png,-1\n", "the label of a.png is '-1'"),
        ("l.csv", "a.png,0.5\n", "the label of a.png is '0.5'"),
        ("l.csv", "a.png,٤\n", "the label of a.png is '٤'"),
        ("l.csv", "a.png,1_6\n", "the label of a.png is '1_6'"),
        ("l.csv", "a.png,nan\n", "the label of a.png is 'nan'"),
        ("l.csv", "a.png," + "9" * 5000 + "\n", r"is '999.*\.\.\."),
        ("l.csv", 'a.png,"' + "9" * 200_000 + "\n", "holds no labels"),
    ],
)
def test_labels_that_are_no_whole_numbers_are_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        read_labels(tmp_path / name)
    assert len(caught.value.message) < 300


def test_a_pipe_is_no_file_of_labels(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "l.csv")
    for path in (tmp_path / "l.csv", Path("/dev/zero")):
        with pytest.raises(DataError, match="is a (pipe|device)"):
            read_labels(path)

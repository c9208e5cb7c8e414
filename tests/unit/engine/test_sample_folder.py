import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medcli.engine.image_records import Record
from medcli.engine.manifest import check_folder, require_image_space, write_manifest
from medcli.engine.pictures import write_png
from medcli.engine.sample_folder import SampleFolder
from medcli.errors import ConfigError, DataError, EnvironmentProblem
from medcli.runtime.shared_lines import SharedLines

SETTINGS = {"seed": 0, "schedule": {"kind": "full"}}
MANIFEST = {
    "settings": SETTINGS,
    "num_images": 3,
    "run": {"batch_size": 2, "batch_size_asked": None},
    "sessions": [{"images": 3, "seconds": 1.5}],
}


def record_of(index: int, *switch_steps: int) -> Record:
    return Record(index=index, label=3, file=f"{index:06d}.png", switch_steps=switch_steps, gmacs=1.5)


def picture(index: int) -> np.ndarray:
    return np.full((8, 8, 3), index, dtype=np.uint8)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    write_manifest(path, MANIFEST)
    with SampleFolder(path) as folder:
        folder.work.share()
        for index in (2, 0, 1):
            folder.add(record_of(index, 5, 9), picture(index))
    return path


def test_a_line_is_what_the_contract_says(filled: Path) -> None:
    lines = [json.loads(line) for line in (filled / "images.jsonl").read_text().splitlines()]
    assert lines[0] == {"index": 2, "label": 3, "file": "000002.png", "switch_steps": [5, 9], "gmacs": 1.5}
    assert [line["index"] for line in lines] == [2, 0, 1]


def test_finished_images_are_found_again_and_their_lines_left_alone(filled: Path) -> None:
    before = (filled / "images.jsonl").stat()
    with SampleFolder(filled) as folder:
        assert list(folder.done()) == [0, 1, 2]
        assert list(folder.records()) == [record_of(index, 5, 9) for index in (2, 0, 1)]
    after = (filled / "images.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    "torn",
    [
        *('{"index": 3, "lab', '{"index": 3}\n', "\0\0\0\0", '{"index": 7, "label": 1}'),
        '{"index": 7, "label": 1, "file": "../7.png", "switch_steps": [], "gmacs": 1}\n',
        '{"index": 2, "label": 1, "file": "000002.png", "switch_steps": ["x"], "gmacs": 1}\n',
        '{"index": 2, "label": 1, "file": "000002.png", "switch_steps": [], "gmacs": NaN}\n',
    ],
)
def test_a_torn_line_is_dropped_and_the_next_starts_clean(filled: Path, torn: str) -> None:
    with (filled / "images.jsonl").open("a") as file:
        file.write(torn)
    with SampleFolder(filled) as folder:
        assert list(folder.done()) == [0, 1, 2]
        folder.work.share()
        folder.add(record_of(3), picture(3))
    lines = (filled / "images.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [2, 0, 1, 3]


def test_a_last_line_without_its_end_counts_if_it_is_whole(filled: Path) -> None:
    text = (filled / "images.jsonl").read_text()
    (filled / "images.jsonl").write_text(text[:-1])
    with SampleFolder(filled) as folder:
        assert list(folder.done()) == [0, 1, 2]
    assert (filled / "images.jsonl").read_text() == text


def test_a_line_without_its_picture_does_not_count(filled: Path) -> None:
    (filled / "000000.png").unlink()
    with SampleFolder(filled) as folder:
        assert list(folder.done()) == [1, 2]
        folder.work.share()
        folder.add(record_of(0), picture(0))
    assert len((filled / "images.jsonl").read_text().splitlines()) == 3


def test_half_written_files_of_a_killed_run_are_removed(filled: Path) -> None:
    (filled / ".000003.tmp-123.png").write_bytes(b"half")
    with SampleFolder(filled):
        pass
    assert not list(filled.glob(".*"))


def test_a_run_may_go_on_in_its_own_folder(filled: Path) -> None:
    manifest = check_folder(filled, SETTINGS)
    assert manifest is not None
    assert manifest["num_images"] == 3


def test_a_new_or_empty_folder_is_free(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "new", SETTINGS) is None
    assert check_folder(tmp_path, SETTINGS) is None
    (tmp_path / ".manifest.tmp-123.json").touch()
    assert check_folder(tmp_path, SETTINGS) is None


def test_other_settings_are_refused_by_name(filled: Path) -> None:
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        check_folder(filled, {**SETTINGS, "seed": 1})
    with pytest.raises(ConfigError, match=r"other settings \(dtype\)"):
        check_folder(filled, {**SETTINGS, "dtype": "bf16"})


def test_folders_of_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds no samples"):
        check_folder(tmp_path, SETTINGS)
    with pytest.raises(ConfigError, match="is a file"):
        check_folder(tmp_path / "thesis.tex", SETTINGS)


def test_a_damaged_manifest_is_a_data_problem(filled: Path) -> None:
    (filled / "manifest.json").write_text("{")
    with pytest.raises(DataError):
        check_folder(filled, SETTINGS)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("settings", [1]),
        ("settings", None),
        ("num_images", "many"),
        ("num_images", 0),
        ("run", {}),
        ("run", {"batch_size": "2", "batch_size_asked": None}),
        ("run", {"batch_size": 2, "batch_size_asked": 0}),
        ("sessions", {}),
        ("sessions", [{"images": 3}]),
        ("sessions", [{"images": 3, "seconds": "long"}]),
    ],
)
def test_a_manifest_that_holds_something_else_is_a_data_problem(filled: Path, part: str, value: object) -> None:
    (filled / "manifest.json").write_text(json.dumps({**MANIFEST, part: value}))
    with pytest.raises(DataError, match=part) as caught:
        check_folder(filled, SETTINGS)
    assert "--output" in str(caught.value.hint)


def test_an_equal_manifest_is_not_written_again(filled: Path) -> None:
    before = (filled / "manifest.json").stat()
    write_manifest(filled, dict(reversed(MANIFEST.items())))
    assert (filled / "manifest.json").stat().st_mtime_ns == before.st_mtime_ns
    write_manifest(filled, {"num_images": 4, "settings": SETTINGS})
    assert json.loads((filled / "manifest.json").read_text())["num_images"] == 4


def test_a_full_disk_is_found_before_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000_000))
    require_image_space(tmp_path / "a/b", 10, 256, archive=True)
    with pytest.raises(EnvironmentProblem, match="free"):
        require_image_space(tmp_path / "a/b", 1000, 256, archive=False)


def test_what_is_there_needs_no_more_room(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage, one_mb = shutil.disk_usage(filled), 512 * 512 * 3
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2.5 * one_mb))
    require_image_space(filled, 5, 512, archive=False)
    with pytest.raises(EnvironmentProblem, match="3 more images"):
        require_image_space(filled, 6, 512, archive=False)
    # The archive holds all of them, old and new.
    with pytest.raises(EnvironmentProblem):
        require_image_space(filled, 3, 512, archive=True)
    (filled / "samples.npz").touch()
    require_image_space(filled, 3, 512, archive=True)
    with pytest.raises(EnvironmentProblem):
        require_image_space(filled, 4, 512, archive=False)


def test_lines_of_another_process_are_noticed_and_one_still_being_written_waits(filled: Path) -> None:
    with SampleFolder(filled) as folder:
        line = record_of(5).to_line()
        with (filled / "images.jsonl").open("a") as file:
            file.write(line[:9])
        folder.read_on()
        assert not folder.is_done(5)
        with (filled / "images.jsonl").open("a") as file:
            file.write(line[9:])
        folder.read_on()
        assert folder.is_done(5)
        assert folder.num_missing(7) == 3


def test_a_line_given_twice_counts_once_and_goes_away(filled: Path) -> None:
    with (filled / "images.jsonl").open("a") as file:
        file.write(record_of(1).to_line())
    with SampleFolder(filled) as folder:
        assert len(list(folder.records())) == folder.num_done == 3
    assert len((filled / "images.jsonl").read_text().splitlines()) == 3


def test_a_picture_of_another_size_does_not_count(filled: Path) -> None:
    write_png(filled / "000001.png", np.zeros((8, 9, 3), np.uint8))
    with SampleFolder(filled, side_px=8) as folder:
        assert list(folder.done()) == [0, 2]


def test_files_that_are_linked_from_another_folder_stay_as_they_are(filled: Path, tmp_path: Path) -> None:
    copy, notes = tmp_path / "copy", tmp_path / "notes"
    copy.mkdir()
    notes.mkdir()
    (notes / "images.jsonl").write_text("mine\n")
    for path in filled.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / ".processes").symlink_to(notes)
    before = (filled / "images.jsonl").read_bytes()
    with SampleFolder(copy) as folder:
        assert list(folder.done()) == [0, 1, 2]
        folder.add(record_of(3), picture(3))
    with SampleFolder(copy) as folder:
        assert list(folder.done()) == [0, 1, 2, 3]
    assert (filled / "images.jsonl").read_bytes() == before
    assert (notes / "images.jsonl").read_text() == "mine\n"
    with pytest.raises(OSError, match="symbolic"):
        linked(tmp_path / "lines.jsonl", filled / "images.jsonl").append("x\n")


def linked(path: Path, target: Path) -> SharedLines:
    path.symlink_to(target)
    return SharedLines(path)

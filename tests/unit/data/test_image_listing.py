from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from medcli.data.image_files import ImageHeader
from medcli.data.image_listing import SAMPLE_SIZE, list_images
from medcli.data.name_list import NameList
from medcli.errors import DataError
from tests.unit.data.tiny_data import Notes, save_classes, save_image, save_labels


def listed_names(path: Path, notes: Notes | None = None) -> list[tuple[str, int]]:
    listing = list_images(path, notes or Notes())
    return list(zip(listing.names, listing.labels_N.tolist(), strict=True))


def test_names_are_kept_as_they_are() -> None:
    names = ["a/b.png", "", "ä ö.png", os.fsdecode(b"\xff.png")]
    kept = NameList(names)
    assert list(kept) == names
    assert [kept[index] for index in range(len(kept))] == names
    assert NameList(["ab", "c"]).digest_parts() != NameList(["a", "bc"]).digest_parts()


def test_sub_folders_are_classes_in_sorted_order_as_for_torchvision(tmp_path: Path) -> None:
    for name in ("dog/2.png", "dog/10.png", "Cat/x.PNG", "dog/more/a.jpg", "dog/less/deep/b.bmp", "ant/1.webp"):
        save_image(tmp_path / name)
    expected = [
        ("Cat/x.PNG", 0),
        ("ant/1.webp", 1),
        ("dog/10.png", 2),
        ("dog/2.png", 2),
        ("dog/less/deep/b.bmp", 2),
        ("dog/more/a.jpg", 2),
    ]
    assert listed_names(tmp_path) == expected
    # What ImageFolder does, in its own words: classes sorted, then `sorted(os.walk(class))`, then files sorted.
    theirs = [
        (os.path.relpath(os.path.join(folder, file), tmp_path), label)
        for label, name in enumerate(sorted(os.listdir(tmp_path)))
        for folder, _, files in sorted(os.walk(tmp_path / name))
        for file in sorted(files)
    ]
    assert theirs == expected


@pytest.mark.parametrize(("folders", "said"), [(11, "class 2 is 10/"), (10, None)])
def test_folders_named_by_numbers_that_are_not_theirs_are_remarked(
    tmp_path: Path, folders: int, said: str | None
) -> None:
    for number in range(folders):
        save_image(tmp_path / f"{number}/a.png")
    notes = Notes()
    listed_names(tmp_path, notes)
    assert [said in note for note in notes.texts] == ([True] if said else [])


def test_folders_within_a_class_come_in_sorted_order_whatever_the_disk_says(tmp_path: Path) -> None:
    for name in ("f", "b", "h", "a", "d", "g", "c", "e"):
        save_image(tmp_path / f"cat/{name}/1.png")
    assert [name for name, _ in listed_names(tmp_path)] == [f"cat/{name}/1.png" for name in "abcdefgh"]


def test_hidden_files_and_files_that_are_no_images_are_left_alone(tmp_path: Path) -> None:
    save_classes(tmp_path, {"a": 1})
    (tmp_path / "a/notes.txt").write_text("x")
    (tmp_path / "a/.hidden.png").write_text("x")
    (tmp_path / ".cache").mkdir()
    assert listed_names(tmp_path) == [("a/0.png", 0)]


def test_images_beside_the_class_folders_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    save_classes(tmp_path, {"a": 1})
    save_image(tmp_path / "loose.png")
    notes = Notes()
    assert listed_names(tmp_path, notes) == [("a/0.png", 0)]
    assert len(notes.texts) == 1
    assert "loose.png" in notes.texts[0]


def test_a_file_of_labels_has_the_say_over_folders(tmp_path: Path) -> None:
    save_classes(tmp_path, {"a": 2, "b": 1})
    labels = save_labels(tmp_path / "labels.csv", "b/0.png,0\na/1.png,7\n")
    notes = Notes()
    expected = [("a/1.png", 7), ("b/0.png", 0)]
    assert listed_names(tmp_path, notes) == expected
    assert notes.texts == [f"1 images of {tmp_path} are not in labels.csv and are left out"]
    assert listed_names(labels) == expected
    assert list_images(tmp_path, Notes()).num_classes == 8


def test_a_file_of_labels_elsewhere_may_lead_to_the_images(tmp_path: Path) -> None:
    image = save_image(tmp_path / "images/1.png")
    there = save_labels(tmp_path / "lists/train.json", {"../images/1.png": 1, str(image): 0})
    listing = list_images(there, Notes())
    assert sorted(listing.path(index).resolve() for index in range(2)) == [image, image]


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ({}, "holds no images"),
        ({"a": 1, "b": 0, "c": 0}, "2 class folders without images: b, c"),
    ],
)
def test_a_folder_without_labelled_images_is_refused(tmp_path: Path, folders: dict[str, int], said: str) -> None:
    save_classes(tmp_path, folders)
    for name in folders:
        (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(DataError, match=said) as caught:
        list_images(tmp_path, Notes())
    assert "sub-folder" in (caught.value.hint or "")


def test_images_without_class_folders_are_one_class(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        save_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    notes = Notes()
    listing = list_images(tmp_path, notes)
    assert (list(listing.names), listing.labels_N.tolist(), listing.class_names) == (["a.png", "b.png"], [0, 0], ())
    assert notes.texts == [f"{tmp_path} has no class folders: its 2 images are one class, number 0"]


def test_missing_files_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    save_image(tmp_path / "b.png")
    save_labels(tmp_path / "labels.json", {"a.png": 0, "b.png": 0, "c.png": 1})
    with pytest.raises(DataError, match=r"2 of the 3 images .* the first is a.png"):
        list_images(tmp_path, Notes())


def test_damaged_images_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    save_classes(tmp_path, {"a": 4})
    (tmp_path / "a/1.png").write_bytes(b"")
    (tmp_path / "a/3.png").write_text("<html>")
    with pytest.raises(DataError, match=r"2 of 4 checked images are unusable: .*a/1.png is empty"):
        list_images(tmp_path, Notes())


def test_of_many_images_only_a_sample_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def look(path: Path) -> ImageHeader:
        opened.append(path)
        return ImageHeader(width=4, height=4, mode="RGB", is_rotated=False)

    monkeypatch.setattr("medcli.data.image_listing.read_header", look)
    (tmp_path / "a").mkdir()
    for number in range(2 * SAMPLE_SIZE + 500):
        (tmp_path / f"a/{number:05d}.png").touch()
    listing = list_images(tmp_path, Notes())
    assert listing.num_images == 2 * SAMPLE_SIZE + 500
    assert len(set(opened)) == SAMPLE_SIZE
    assert opened[0].name == "00000.png"
    assert int(opened[-1].stem) > 2 * SAMPLE_SIZE


def test_the_fingerprint_tells_names_labels_sizes_and_pixels_apart(tmp_path: Path) -> None:
    save_classes(tmp_path / "x", {"a": 2, "b": 1})
    first = list_images(tmp_path / "x", Notes()).fingerprint
    (tmp_path / "x").rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert list_images(moved, Notes()).fingerprint == first
    (moved / "a").rename(moved / "c")
    renamed = list_images(moved, Notes()).fingerprint
    save_image(moved / "c/0.png", 99, (64, 64))
    resized = list_images(moved, Notes()).fingerprint
    content = bytearray((moved / "c/0.png").read_bytes())
    content[-30] ^= 1
    (moved / "c/0.png").write_bytes(content)
    repainted = list_images(moved, Notes()).fingerprint
    save_labels(moved / "labels.json", {"b/0.png": 0, "c/0.png": 1, "c/1.png": 0})
    assert len({first, renamed, resized, repainted, list_images(moved, Notes()).fingerprint}) == 5


def test_links_to_classes_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    save_classes(tmp_path / "set", {"a": 2})
    save_classes(tmp_path / "elsewhere", {"b": 3})
    (tmp_path / "set/b").symlink_to("../elsewhere/b")
    (tmp_path / "set/loop").symlink_to(".")
    (tmp_path / "set/a/up").symlink_to("..")
    notes = Notes()
    listing = list_images(tmp_path / "set", notes)
    assert listing.labels_N.tolist() == [0, 0, 1, 1, 1]
    assert any("loop leads back" in note for note in notes.texts)
    assert any("a/up" in note for note in notes.texts)


def test_two_names_of_one_class_are_refused(tmp_path: Path) -> None:
    save_classes(tmp_path, {"a": 2})
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(DataError, match="b and .*a are the same folder"):
        list_images(tmp_path, Notes())


def test_rotated_and_other_images_are_remarked(tmp_path: Path) -> None:
    save_classes(tmp_path, {"a": 2})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 6)).save(tmp_path / "a/x.jpg", exif=exif.tobytes())
    (tmp_path / "a/y.gif").touch()
    notes = Notes()
    assert list_images(tmp_path, notes).num_images == 3
    assert any("1 of 3 checked images are marked as rotated" in note for note in notes.texts)
    assert any("1 .gif" in note for note in notes.texts)

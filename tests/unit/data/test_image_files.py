from __future__ import annotations

import io
import os
import random
import stat
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from medcli.data import image_files
from medcli.data.image_files import MAX_PIXELS, content_remarks, find_images, read_header, read_image
from medcli.errors import DataError, EnvironmentProblem
from tests.unit.data.test_npz import mutated, refusal

NUM_MUTATIONS = 100
# The tests' filter "error" goes before the module's own.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]
FORMATS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpeg": {"quality": 90},
    "jpeg, progressive": {"progressive": True},
    "bmp": {},
    "gif": {},
    "ppm": {},
    "webp": {"lossless": True},
    "tiff": {},
    "tiff, deflate": {"compression": "tiff_adobe_deflate"},
}


def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture().save(content, kind.split(",")[0], **FORMATS[kind], **options)
    return content.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(*chunks: bytes) -> bytes:
    content = encoded("png")
    return content[:33] + b"".join(chunks) + content[33:]


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_read_by_content(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(encoded(kind))
    pixels_YXC, _ = read_image(file)
    assert pixels_YXC.shape == (9, 7, 3)
    header = read_header(file)
    assert (header.width, header.height, header.is_rotated) == (7, 9, False)
    if kind not in ("gif",) and "jpeg" not in kind:
        np.testing.assert_array_equal(pixels_YXC, np.asarray(picture()))


@pytest.mark.parametrize("kind", ["eps", "pdf", "ico", "tga", "sgi"])
def test_other_contents_are_not_images(tmp_path: Path, kind: str) -> None:
    picture().save(tmp_path / "x.png", kind)
    for read in (read_header, read_image):
        with pytest.raises(DataError, match="not an image of a known format"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_refused_or_read(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, draw = encoded(kind), random.Random(kind)
    for number in range(NUM_MUTATIONS):
        file = tmp_path / f"{number}.png"
        file.write_bytes(mutated(content, draw))
        for read in (read_header, read_image):
            message = refusal(lambda read=read, file=file: read(file))  # type: ignore[misc]
            assert message is None or (str(file) in message and "\n" not in message)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kept", [0, 1, 20, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff"])
def test_files_cut_short_are_refused(tmp_path: Path, kind: str, kept: float) -> None:
    content = encoded(kind)
    file = tmp_path / "x.png"
    file.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    if 0 < kept <= 1:
        file.write_bytes(content[: max(1, int(kept * len(content)))] if kept < 1 else content[:1])
    with pytest.raises(DataError, match=r"x.png is (empty|not)"):
        read_image(file)


def test_text_in_a_png_is_ignored_up_to_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    for size in (2 << 20, 20 << 20):
        file.write_bytes(png_with(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(size)))))
        np.testing.assert_array_equal(read_image(file)[0], np.asarray(picture()))
    file.write_bytes(png_with(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20)))))
    with pytest.raises(DataError, match=r"x.png is not a whole image"):
        read_header(file)


def test_bombs_are_refused_by_their_size(tmp_path: Path) -> None:
    for side in (int(MAX_PIXELS**0.5) + 1, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        content = (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        )
        (tmp_path / "x.png").write_bytes(content)
        for read in (read_header, read_image):
            with pytest.raises(DataError, match=r"x.png has .* more than 67,108,864"):
                read(tmp_path / "x.png")


def test_deep_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "x.png")
    for read in (read_header, read_image):
        with pytest.raises(DataError, match="expected 8 bits"):
            read(tmp_path / "x.png")


def test_rotation_is_told_by_the_header(tmp_path: Path) -> None:
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[0x0112] = orientation
        for name in ("x.jpg", "x.png", "x.webp", "x.tif"):
            picture().save(tmp_path / name, exif=exif.tobytes())
            assert read_header(tmp_path / name).is_rotated == (orientation == 6)
    (tmp_path / "y.jpg").write_bytes(encoded("jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"))
    assert not read_header(tmp_path / "y.jpg").is_rotated


def test_what_the_system_does_not_give_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(encoded("png"))

    def denied(self: Path, *_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    for read in (read_header, read_image):
        with pytest.raises(EnvironmentProblem, match=r"x.png can't be read: Permission denied"):
            read(tmp_path / "x.png")


def test_missing_files_folders_and_pipes_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("none")
    for name, wanted in (("pipe", "is a pipe"), ("folder", "is a folder"), ("link", "no such"), ("none", "no such")):
        with pytest.raises(DataError, match=wanted):
            read_image(tmp_path / f"{name}.png")


def touched(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_are_found_at_any_depth_in_the_order_of_their_folders(tmp_path: Path) -> None:
    touched(
        tmp_path,
        "b/2.PNG",
        "b/10.png",
        "a/z/1.jpeg",
        "a/3.tif",
        "9.bmp",
        "a/.x.png",
        ".h/1.png",
        "a/t.txt",
        "x.png/1.png",
    )
    content = find_images(tmp_path)
    assert content.names == ["9.bmp", "a/3.tif", "a/z/1.jpeg", "b/10.png", "b/2.PNG", "x.png/1.png"]
    assert content_remarks(tmp_path, [content]) == []
    assert find_images(tmp_path, "a").names == ["a/3.tif", "a/z/1.jpeg"]


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    touched(tmp_path, "set/a/1.png", "elsewhere/2.png", "elsewhere/deep/3.png")
    links = {"set/b": "../elsewhere", "set/up": ".", "set/a/up": "../..", "set/self": "self", "elsewhere/again": "deep"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    content = find_images(tmp_path / "set")
    assert sorted(os.path.basename(name) for name in content.names) == ["1.png", "2.png", "3.png"]
    (remark,) = content_remarks(tmp_path / "set", [content])
    assert "not followed" in remark


def test_other_images_are_counted(tmp_path: Path) -> None:
    touched(tmp_path, "1.png", "2.gif", "3.GIF", "a/4.avif", "a/5.jfif", "6.txt")
    (remark,) = content_remarks(tmp_path, [find_images(tmp_path)])
    assert "1 .avif, 2 .gif, 1 .jfif" in remark


def test_a_folder_that_can_not_be_read_is_a_problem_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched(tmp_path, "a/1.png")
    scan = os.scandir

    def denied(path: Any) -> Any:
        if os.fspath(path).endswith("a"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(image_files.os, "scandir", denied)
    with pytest.raises(EnvironmentProblem, match="a can't be read: Permission denied"):
        find_images(tmp_path)
    assert stat.S_ISDIR(os.stat(tmp_path / "a").st_mode)


def test_of_large_images_one_at_a_time_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcli.data.image_files.LARGE_PIXELS", 4)
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    busy, most = [0], [0]

    def crop(image: Image.Image) -> npt.NDArray[np.uint8]:
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        time.sleep(0.01)
        busy[0] -= 1
        return np.asarray(image)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: read_image(tmp_path / "x.png", crop), range(8)))
    assert most[0] == 1

from pathlib import Path

import numpy as np
import pytest

from medcli.engine.pictures import TITLE_PX, grid_capacity, grid_columns, grid_of, is_whole_png, read_png, write_png

RNG = np.random.default_rng(0)


def pictures(count: int, side: int) -> list[np.ndarray]:
    return list(RNG.integers(0, 255, (count, side, side, 3), dtype=np.uint8))


def test_a_picture_survives_its_file(tmp_path: Path) -> None:
    (pixels,) = pictures(1, 9)
    write_png(tmp_path / "a.png", pixels)
    assert np.array_equal(read_png(tmp_path / "a.png"), pixels)


def test_small_images_are_enlarged_and_laid_out_row_by_row() -> None:
    shades = (10, 100, 200)
    grid = grid_of([np.full((8, 8, 3), shade, dtype=np.uint8) for shade in shades], 2)
    assert grid.shape == (2 * 64 + 2, 2 * 64 + 2, 3)
    assert (grid[:64, :64] == shades[0]).all()
    assert (grid[:64, 66:] == shades[1]).all()
    assert (grid[66:, :64] == shades[2]).all()
    assert (grid[66:, 66:] == 255).all()
    assert (grid[:, 64:66] == 255).all()


def test_enlarging_keeps_the_picture_where_it_is() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[2, 5] = 255
    bright = np.argwhere(grid_of([image], 1)[..., 0] > 128)
    assert np.allclose(bright.mean(axis=0), [2 * 8 + 3.5, 5 * 8 + 3.5])


def test_large_images_keep_their_size() -> None:
    assert grid_of(pictures(1, 128), 1).shape == (128, 128, 3)


@pytest.mark.parametrize(("side", "capacity"), [(8, 100), (256, 64), (512, 16), (1024, 4), (4096, 1)])
def test_a_grid_stays_bounded(side: int, capacity: int) -> None:
    assert grid_capacity(side) == capacity


@pytest.mark.parametrize(
    ("num_images", "num_classes", "columns"), [(40, 10, 10), (8, 10, 3), (16, 1000, 4), (17, 0, 5), (1, 1, 1)]
)
def test_each_column_shows_a_class_where_that_is_readable(num_images: int, num_classes: int, columns: int) -> None:
    assert grid_columns(num_images, num_classes) == columns


def test_names_stand_above_their_columns() -> None:
    images = [np.full((64, 64, 3), 100, dtype=np.uint8)] * 4
    plain, named = grid_of(images, 2), grid_of(images, 2, ("a", "a very long name that does not fit, really \u4e2d"))
    row = named[: -plain.shape[0]]
    assert np.array_equal(named[-plain.shape[0] :], plain)
    assert row.shape == (TITLE_PX, plain.shape[1], 3)
    dark = np.flatnonzero((row[..., 0] < 128).any(0))
    assert (dark < 12).any()
    assert not ((dark > 12) & (dark < 66)).any()
    assert (dark > 110).any()
    assert np.array_equal(grid_of(images, 2, ("", "")), plain)


def test_a_whole_picture_may_have_to_be_of_a_size(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((8, 9, 3), np.uint8))
    write_png(tmp_path / "b.png", np.zeros((8, 8, 3), np.uint8))
    assert is_whole_png(tmp_path / "a.png")
    assert [is_whole_png(tmp_path / name, 8) for name in ("a.png", "b.png")] == [False, True]

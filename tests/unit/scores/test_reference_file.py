from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcli.data.image_source import ImageArray
from medcli.data.images import open_images
from medcli.errors import DataError
from medcli.runtime.reporting import Silent
from medcli.scores.extractor import POOL, SPATIAL
from medcli.scores.features import FeatureSet
from medcli.scores.moments import Moments
from medcli.scores.reference import check_made_with, info_of, read_statistics
from medcli.scores.reference_file import ReferenceFile
from medcli.scores.registry import load_extractor

EXTRACTOR = load_extractor("digits")


def images(num: int) -> ImageArray:
    return ImageArray.of("x", torch.arange(num, dtype=torch.uint8).view(num, 1, 1, 1).expand(num, 2, 4, 3))


def features(num: int, *kinds: str) -> FeatureSet:
    rows = torch.rand(num, 3, generator=torch.Generator().manual_seed(0))
    return FeatureSet(name="x", num_images=num, gaussians={kind: Moments.of(rows).gaussian() for kind in kinds})


def written(path: Path, num_stored: int = 0, *kinds: str) -> Path:
    with ReferenceFile(path) as file:
        if num_stored:
            file.write_images(images(130), num_stored, Silent())
        file.write_statistics(features(130, *kinds), EXTRACTOR)
    return path


def test_the_file_has_adms_keys_and_types(tmp_path: Path) -> None:
    with np.load(written(tmp_path / "r.npz", 5, POOL, SPATIAL)) as archive:
        found = {key: (archive[key].dtype.name, archive[key].shape) for key in archive.files}
    assert found["arr_0"] == ("uint8", (5, 2, 4, 3))
    assert (found["mu"], found["sigma"]) == (("float32", (3,)), ("float64", (3, 3)))
    assert (found["mu_s"], found["sigma_s"]) == (("float32", (3,)), ("float64", (3, 3)))


def test_images_are_taken_at_even_distances(tmp_path: Path) -> None:
    with np.load(written(tmp_path / "r.npz", 4, POOL)) as archive:
        assert archive["arr_0"][:, 0, 0, 0].tolist() == [0, 32, 65, 97]
    with np.load(written(tmp_path / "all.npz", 130, POOL)) as archive:
        assert archive["arr_0"][:, 0, 0, 0].tolist() == list(range(130))


def test_statistics_come_back_exactly_and_say_of_how_many_images(tmp_path: Path) -> None:
    path, given = written(tmp_path / "r.npz", 0, POOL), features(130, POOL).gaussians[POOL]
    found = read_statistics(path, {POOL: 3})[POOL]
    assert torch.equal(found.mean_D, given.mean_D)
    assert torch.equal(found.covariance_DD, given.covariance_DD)
    assert found.num_rows == 130


def test_a_mean_that_was_changed_since_is_what_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "r.npz", 0, POOL)
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    np.savez(path, **(arrays | {"mu": np.zeros(3, np.float32)}))
    assert read_statistics(path, {POOL: 3})[POOL].mean_D.tolist() == [0, 0, 0]


def test_the_same_images_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, 7, POOL).read_bytes() for name in ("a.npz", "b.npz"))
    assert first == second


def test_the_file_says_what_made_it_and_refuses_other_weights(tmp_path: Path) -> None:
    path = written(tmp_path / "r.npz", 0, POOL)
    info = info_of(path)
    assert info is not None
    assert (info.extractor, info.extractor_sha256, info.num_images) == ("digits", EXTRACTOR.weights_sha256, 130)
    check_made_with(path, EXTRACTOR)

    class Other:
        name, weights_sha256 = "digits", "0" * 64

    with pytest.raises(DataError, match="holds features of digits"):
        check_made_with(path, Other())


@pytest.mark.parametrize(
    "note", ["{", '{"extractor": "digits"}', '{"extractor": "d", "extractor_sha256": "", "num_images": 1}']
)
def test_a_damaged_note_is_an_error(tmp_path: Path, note: str) -> None:
    path = tmp_path / "r.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3), medcli=np.array(note))
    with pytest.raises(DataError, match=r"r\.npz: "):
        info_of(path)


def test_files_of_other_tools_have_no_note(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    assert info_of(path) is None
    check_made_with(path, EXTRACTOR)


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    for index, width in enumerate((4, 4, 6)):
        Image.new("RGB", (width, 4)).save(tmp_path / f"{index}.png")
    source = open_images(tmp_path)
    with ReferenceFile(tmp_path / "r.npz") as file, pytest.raises(DataError, match="4x4 and 6x4 px") as caught:
        file.write_images(source, 3, Silent())
    assert "--reference-images 0" in str(caught.value.hint)

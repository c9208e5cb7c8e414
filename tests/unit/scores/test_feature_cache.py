from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from medcli.data import image_archive, image_folder
from medcli.data.image_files import read_image
from medcli.data.image_source import ImageSource
from medcli.data.images import open_images
from medcli.runtime.reporting import Silent
from medcli.scores.extractor import POOL, SPATIAL
from medcli.scores.feature_cache import FeatureCache, default_cache_folder
from medcli.scores.features import FeatureSet, Wanted, extract
from tests.unit.scores.corners import Corners, images

NUM = 10


def passed(cache: FeatureCache, extractor: Corners, num: int = NUM) -> FeatureSet:
    wanted = Wanted(gaussians=frozenset({SPATIAL}), rows=frozenset({POOL}), blocks=True)
    return extract(images(num), extractor, wanted, batch_size=5, reporter=Silent(), cache=cache)


def rewritten(path: Path, *, keep: Callable[[torch.Tensor], torch.Tensor], **header: str) -> None:
    """Change a whole, well-formed file."""
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), **header}
        rows = {kind: keep(file.get_tensor(kind)) for kind in file.keys()}  # noqa: SIM118  a method of safetensors
    save_file(rows, path, metadata=metadata)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"{" * 400),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "a flipped bit": flipped,
    "rows of another set": lambda path: rewritten(path, keep=lambda rows: rows + 1),
    "fewer rows": lambda path: rewritten(path, keep=lambda rows: rows[:-1].clone()),
    "another type": lambda path: rewritten(path, keep=lambda rows: rows.double()),
    "no header": lambda path: rewritten(path, keep=lambda rows: rows, medcli="[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_noticed_and_made_again(tmp_path: Path, damage: str) -> None:
    cache = FeatureCache(tmp_path, shard_images=4)
    first = passed(cache, Corners())
    paths = sorted(tmp_path.rglob("*.safetensors"))
    whole = paths[1].read_bytes()
    DAMAGE[damage](paths[1])
    extractor = Corners()
    found = passed(cache, extractor)
    assert extractor.num_calls == 1  # the four images of that entry
    assert torch.equal(found.rows[POOL], first.rows[POOL])
    assert torch.equal(found.gaussians[SPATIAL].covariance_DD, first.gaussians[SPATIAL].covariance_DD)
    assert paths[1].read_bytes() == whole


def test_an_entry_that_is_not_finite_is_not_read_though_its_checksum_fits(tmp_path: Path) -> None:
    cache, extractor = FeatureCache(tmp_path), Corners()
    rows = {POOL: torch.ones(2, 3), SPATIAL: torch.ones(2, 3)}
    cache.save(extractor, "k", rows)
    assert cache.load(extractor, "k", 2)
    cache.save(extractor, "k", rows | {SPATIAL: torch.full((2, 3), float("nan"))})
    assert cache.load(extractor, "k", 2) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are Unix's")
def test_a_pipe_in_the_place_of_an_entry_is_not_waited_for(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    place = cache.path(Corners(), "key")
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    assert cache.load(Corners(), "key", 1) is None


def test_an_entry_that_goes_away_between_scores_and_error_bars_is_named(tmp_path: Path) -> None:
    found = passed(FeatureCache(tmp_path, shard_images=4), Corners())
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(Exception, match="was removed or changed while it was in use"):
        found.block_moments[SPATIAL][0]


def test_only_shards_whose_images_changed_are_computed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, shard_images=4)
    passed(cache, Corners(), NUM)
    extractor = Corners()
    passed(cache, extractor, NUM + 4)  # the third shard was of two images and is of four now, the fourth is new
    assert extractor.num_calls == 2


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("weights_sha256", "other"), ("device_type", "cuda"), ("preprocessing", "other"), ("name", "x")],
)
def test_another_network_finds_nothing(tmp_path: Path, attribute: str, value: str) -> None:
    cache = FeatureCache(tmp_path)
    passed(cache, Corners())
    extractor = Corners()
    setattr(extractor, attribute, value)
    passed(cache, extractor)
    assert extractor.num_calls == 2  # two calls of five images


def test_the_order_and_the_number_of_images_make_the_key() -> None:
    cache, extractor = FeatureCache(Path("x")), Corners()
    keys = {cache.key(extractor, digests) for digests in ([b"a", b"b"], [b"b", b"a"], [b"a"], [b"ab"])}
    assert len(keys) == 4


def test_a_size_is_of_whole_files_alone_and_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, shard_images=4)
    passed(cache, Corners())
    (tmp_path / "corners" / ".x.tmp-0123456789abcdef.safetensors").write_bytes(b"half")
    size = cache.size()
    assert size.num_files == 3
    assert size.num_bytes == sum(path.stat().st_size for path in tmp_path.glob("corners/[!.]*.safetensors"))
    cache.sweep()
    assert len(list((tmp_path / "corners").iterdir())) == 3


def folder_of_images(path: Path, num: int = NUM) -> Path:
    path.mkdir()
    for number in range(num):
        save_png(path / f"{number}.png", number)
    return path


def save_png(path: Path, level: int) -> None:
    Image.fromarray(np.full((2, 2, 3), level, np.uint8)).save(path, compress_level=0)  # all are of one size


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the images that are decoded."""
    names: list[str] = []

    def counted(file: Path) -> tuple[np.ndarray, str]:
        names.append(file.name)
        return read_image(file)

    monkeypatch.setattr(image_folder, "read_image", counted)
    return names


def scored(source: ImageSource, cache: FeatureCache) -> tuple[FeatureSet, int]:
    extractor = Corners()
    wanted = Wanted(gaussians=frozenset({SPATIAL}), rows=frozenset({POOL}), blocks=True)
    return extract(source, extractor, wanted, batch_size=5, reporter=Silent(), cache=cache), extractor.num_calls


def test_images_whose_features_are_cached_are_not_decoded(tmp_path: Path, decoded: list[str]) -> None:
    source, cache = open_images(folder_of_images(tmp_path / "i")), FeatureCache(tmp_path / "c", shard_images=4)
    first, num_calls = scored(source, cache)
    assert (len(decoded), num_calls) == (NUM, 3)
    decoded.clear()
    again, num_calls = scored(open_images(tmp_path / "i"), cache)
    assert (decoded, num_calls) == ([], 0)
    assert again.content_sha256 == first.content_sha256
    assert torch.equal(again.rows[POOL], first.rows[POOL])


@pytest.mark.parametrize("change", ["content", "time", "content of the same size and time"])
def test_a_file_that_changed_is_decoded_again(tmp_path: Path, decoded: list[str], change: str) -> None:
    folder, cache = folder_of_images(tmp_path / "i"), FeatureCache(tmp_path / "c", shard_images=4)
    scored(open_images(folder), cache)
    file, before = folder / "5.png", (folder / "5.png").stat()
    if "content" in change:
        save_png(file, 200)
        assert file.stat().st_size == before.st_size
    if change == "time":
        os.utime(file)
    if "time" in change and "same" in change:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    decoded.clear()
    found, num_calls = scored(open_images(folder), cache)
    assert sorted(decoded) == ["4.png", "5.png", "6.png", "7.png"]
    assert num_calls == (0 if change == "time" else 1)  # the pixels are those that were cached
    assert found.rows[POOL][5].tolist() == [200 if "content" in change else 5] * 3


def test_a_cached_entry_that_is_damaged_makes_its_images_be_decoded(tmp_path: Path, decoded: list[str]) -> None:
    source, cache = open_images(folder_of_images(tmp_path / "i")), FeatureCache(tmp_path / "c", shard_images=4)
    first, _ = scored(source, cache)
    flipped(sorted(tmp_path.rglob("*.safetensors"))[1])
    decoded.clear()
    found, num_calls = scored(source, cache)
    assert (len(set(decoded)), num_calls) in {(4, 1), (2, 1)}  # the last shard has two images
    assert torch.equal(found.rows[POOL], first.rows[POOL])


@pytest.mark.parametrize("damage", [b"", b"0" * 64, None])
def test_damaged_digests_are_not_believed(tmp_path: Path, decoded: list[str], damage: bytes | None) -> None:
    source, cache = open_images(folder_of_images(tmp_path / "i")), FeatureCache(tmp_path / "c", shard_images=4)
    first, _ = scored(source, cache)
    for path in tmp_path.rglob("*.digests"):
        path.write_bytes(path.read_bytes()[32:] if damage is None else damage)
    decoded.clear()
    found, num_calls = scored(source, cache)
    assert (len(decoded), num_calls) == (NUM, 0)
    assert found.content_sha256 == first.content_sha256


def test_an_archive_whose_features_are_cached_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, path = FeatureCache(tmp_path / "c", shard_images=4), tmp_path / "s.npz"
    np.savez(path, images(NUM).images_NYXC.numpy())
    first, _ = scored(open_images(path), cache)
    monkeypatch.setattr(image_archive, "pieces", None)
    again, num_calls = scored(open_images(path), cache)
    assert (again.content_sha256, num_calls) == (first.content_sha256, 0)
    monkeypatch.undo()
    np.savez(path, images(NUM + 1).images_NYXC.numpy()[1:])
    assert scored(open_images(path), cache)[0].content_sha256 != first.content_sha256


def test_above_its_limit_a_cache_loses_what_was_not_used_for_longest(tmp_path: Path) -> None:
    kept = FeatureCache(tmp_path, shard_images=4)
    passed(kept, Corners())
    oldest, other, used = sorted(tmp_path.rglob("*.safetensors"))
    for path in (oldest, other, used):
        os.utime(path, (1000 if path == oldest else 2000, 1000 if path == oldest else 2000))
    size = kept.size().num_bytes
    FeatureCache(tmp_path, max_bytes=size).sweep()
    assert oldest.exists()
    FeatureCache(tmp_path, max_bytes=size - 1).sweep()
    assert [path.exists() for path in (oldest, other, used)] == [False, True, True]
    digests = [b"0" * 32]
    kept.keep_digests(b"new", digests)
    FeatureCache(tmp_path, max_bytes=1).sweep()  # what was used within the hour stays, above the limit too
    assert [path.exists() for path in (other, used)] == [False, False]
    assert kept.digests(b"new", 1) == tuple(digests)


def test_features_that_are_read_count_as_used(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, shard_images=4)
    passed(cache, Corners())
    for path in tmp_path.rglob("*.safetensors"):
        os.utime(path, (1000, 1000))
    passed(cache, Corners())
    FeatureCache(tmp_path, max_bytes=1).sweep()
    assert cache.size().num_files == 3


def test_the_variable_comes_first_and_its_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("MEDCLI_CACHE", "~/kept")
    assert default_cache_folder() == Path("/somewhere/kept")
    monkeypatch.setenv("MEDCLI_CACHE", "")
    assert default_cache_folder() == Path("/somewhere/.cache/medcli/features")

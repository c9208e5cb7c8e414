from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

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


def test_the_variable_comes_first_and_its_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("MEDCLI_CACHE", "~/kept")
    assert default_cache_folder() == Path("/somewhere/kept")
    monkeypatch.setenv("MEDCLI_CACHE", "")
    assert default_cache_folder() == Path("/somewhere/.cache/medcli/features")

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medcli.errors import DataError
from medcli.scores.shards import (
    FeatureJob,
    content_sha256,
    image_digest,
    network_rows,
    plan_shards,
    read_shards,
    shard_features,
)
from tests.unit.scores.corners import Corners, images


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 7), st.integers(1, 100))
def test_shards_are_the_longest_runs_both_limits_allow(sizes: list[int], max_images: int, max_bytes: int) -> None:
    shards = plan_shards(sizes, max_images=max_images, max_bytes=max_bytes)
    assert [index for span in shards for index in span] == list(range(len(sizes)))
    for span in shards:
        assert len(span) == 1 or (len(span) <= max_images and sum(sizes[index] for index in span) <= max_bytes)
        if span.stop < len(sizes):
            one_more = sum(sizes[index] for index in range(span.start, span.stop + 1))
            assert len(span) == max_images or one_more > max_bytes


def test_shards_are_read_in_the_order_asked_for() -> None:
    source = images(10)
    job = FeatureJob(
        source=source,
        extractor=Corners(),
        shards=plan_shards(source.image_bytes, max_images=4),
        batch_size=4,
        cache=None,
    )
    found = list(read_shards(job, iter([0, 2])))
    assert [shard.number for shard in found] == [0, 2]
    assert found[1].images is not None
    assert torch.equal(torch.stack(list(found[1].images)), source.images_NYXC[8:])


@pytest.mark.parametrize(("device", "num_before"), [("cpu", 2), ("cuda", 0)])
def test_the_next_shard_is_read_from_the_start_of_this_one_on_a_gpu_and_near_its_end_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, device: str, num_before: int
) -> None:
    source, events = images(12), list[str]()
    monkeypatch.setattr(Corners, "device_type", device)
    job = FeatureJob(source=source, extractor=Corners(), shards=(range(12),), batch_size=2, cache=None)
    network_rows(job, source.images_NYXC, lambda _number: events.append("batch"), lambda: events.append("next"))
    assert events == ["batch"] * num_before + ["next"] + ["batch"] * (6 - num_before)


def test_a_digest_tells_shape_and_pixels() -> None:
    image_YXC = images(1).images_NYXC[0]
    changed = image_YXC.clone()
    changed[1, 1, 2] ^= 1
    assert len({image_digest(image_YXC), image_digest(changed), image_digest(image_YXC.reshape(1, 4, 3))}) == 3
    assert image_digest(image_YXC) == image_digest(image_YXC.transpose(0, 1).contiguous().transpose(0, 1))


def test_the_hash_of_a_set_tells_order() -> None:
    assert content_sha256([b"a", b"b"]) != content_sha256([b"b", b"a"])


def test_an_image_whose_features_are_not_finite_is_named_by_its_number_in_the_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, run = images(12), Corners.run

    def broken(self: Corners, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        found = run(self, prepared)
        is_bad = (prepared == source.images_NYXC[9, 0, 0]).all(dim=1)
        return {kind: rows.masked_fill(is_bad[:, None], float("nan")) for kind, rows in found.items()}

    monkeypatch.setattr(Corners, "run", broken)
    job = FeatureJob(source=source, extractor=Corners(), shards=(range(5), range(5, 12)), batch_size=4, cache=None)
    with pytest.raises(DataError, match="features of image 9 are not finite"):
        list(shard_features(job, range(2), lambda _number: None))

from __future__ import annotations

import pytest
import torch

from medcli.errors import DataError
from medcli.scores.extractor import LOGITS, POOL
from medcli.scores.features import FeatureSet
from medcli.scores.fid import frechet_distance
from medcli.scores.moments import Moments
from medcli.scores.precision_recall import precision_recall
from medcli.scores.registry import load_extractor
from medcli.scores.scores import METRICS, metrics_of, score, wanted_of

EXTRACTOR = load_extractor("digits")


def features(name: str, num: int, seed: int) -> FeatureSet:
    pool = torch.randn(num, 64, generator=torch.Generator().manual_seed(seed))
    gaussian = Moments.of(pool).gaussian()
    return FeatureSet(
        name=name,
        num_images=num,
        gaussians={POOL: gaussian},
        rows={POOL: pool, LOGITS: pool[:, :10]},
        block_moments={POOL: [Moments.of(block) for block in pool.tensor_split(20)]},
    )


def test_an_extractor_gives_the_metrics_it_has_layers_for() -> None:
    assert metrics_of(EXTRACTOR) == ("fid", "is", "precision", "recall", "kid")
    assert METRICS == ("fid", "sfid", "is", "precision", "recall", "kid")


def test_only_what_the_metrics_need_is_kept() -> None:
    samples, reference = wanted_of({"fid", "is"}, EXTRACTOR)
    assert (samples.gaussians, samples.rows) == ({POOL}, {LOGITS})
    assert (reference.gaussians, reference.rows) == ({POOL}, set())
    assert (samples.blocks, reference.blocks) == (True, False)


def test_scores_are_samples_against_reference() -> None:
    samples, reference = features("a", 20, 0), features("b", 30, 1)
    found = score(METRICS, samples, reference, EXTRACTOR)
    counts = precision_recall(samples.rows[POOL], reference.rows[POOL])
    assert found.values["fid"] == frechet_distance(samples.gaussians[POOL], reference.gaussians[POOL])
    assert (found.values["precision"], found.values["recall"]) == (counts.precision, counts.recall)
    assert list(found.values) == list(METRICS)


def test_a_metric_without_its_layer_is_none_and_says_why() -> None:
    found = score(("fid", "sfid"), features("a", 20, 0), features("b", 30, 1), EXTRACTOR)
    assert found.values["sfid"] is None
    assert found.unavailable == {"sfid": "the digits extractor has no spatial layer"}


def test_statistics_alone_give_fid_and_nothing_that_needs_images() -> None:
    whole = features("b", 30, 1)
    reference = FeatureSet(name="b.npz", num_images=None, gaussians=whole.gaussians)
    found = score(("fid", "precision", "kid"), features("a", 20, 0), reference, EXTRACTOR)
    assert found.values["fid"] is not None
    assert found.unavailable == dict.fromkeys(("precision", "kid"), "b.npz holds statistics only, no images")


def test_too_few_images_leave_out_precision_and_recall_only() -> None:
    found = score(("fid", "precision", "kid"), features("a", 3, 0), features("b", 30, 1), EXTRACTOR)
    assert found.unavailable == {"precision": "a holds 3 images, 4 are needed"}


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(DataError, match="no spatial layer"):
        score(("sfid",), features("a", 20, 0), features("b", 30, 1), EXTRACTOR)


def test_every_score_has_an_error_and_says_how_it_was_found() -> None:
    found = score(METRICS, features("a", 60, 0), features("b", 70, 1), EXTRACTOR)
    assert set(found.errors) == {"fid", "is", "precision", "recall", "kid"}
    assert all(estimate.method for estimate in found.errors.values())
    share = found.values["precision"]
    assert share is not None
    assert found.errors["precision"].standard_error == pytest.approx((share * (1 - share) / 60) ** 0.5)
    share = found.values["recall"]
    assert share is not None
    assert found.errors["recall"].method == "spread over 64 random halves of the samples"


def test_images_beside_statistics_of_more_images_give_fid_no_error() -> None:
    """An ADM reference given as samples: its rows are not those its statistics were made of."""
    whole, part = features("a", 60, 0), features("a", 20, 0)
    samples = FeatureSet(name="a.npz", num_images=20, gaussians=whole.gaussians, rows=part.rows)
    found = score(("fid", "kid"), samples, features("b", 70, 1), EXTRACTOR)
    assert set(found.errors) == {"kid"}

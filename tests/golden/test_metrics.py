"""Scores against ADM's: numbers and their origin in data/golden-metrics (float64 brute force, or ADM's own code)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from medcli.data.images import center_crop, to_uint8
from medcli.errors import DataError
from medcli.scores.extractor import LOGITS, POOL, SPATIAL
from medcli.scores.fid import frechet_distance
from medcli.scores.inception import flatten_spatial, load_inception
from medcli.scores.inception_score import inception_score
from medcli.scores.kid import kernel_distance
from medcli.scores.moments import Gaussian, Moments
from medcli.scores.precision_recall import precision_recall, radii
from medcli.scores.reference import read_statistics
from tests.golden.inception_support import DATA, METRICS, expected, fidelitys_own, random_weights


def arrays(name: str) -> dict[str, torch.Tensor]:
    with np.load(METRICS / name) as archive:
        return {key: torch.from_numpy(archive[key]) for key in archive.files}


def gaussian(rows: torch.Tensor) -> Gaussian:
    return Moments.of(rows).gaussian()


def fid(samples: torch.Tensor, reference: torch.Tensor) -> float:
    return frechet_distance(gaussian(samples), gaussian(reference))


FID_CASES = [
    ("full_rank", "fid_abs"),
    ("float64_small", "fid_abs"),
    ("pr_pool_like", "fid_abs"),
    ("rank_deficient_2048", "fid_abs_from_features"),
]


@pytest.mark.parametrize(("case", "tolerance"), FID_CASES)
def test_fid_equals_the_exact_value(case: str, tolerance: str) -> None:
    entry, sets = expected()[case], arrays(f"{case}.npz")
    found = fid(sets["samples"], sets["reference"])
    assert found == pytest.approx(entry["fid"]["exact"], abs=entry["tolerance"][tolerance])


def test_fid_is_symmetric() -> None:
    sets = arrays("full_rank.npz")
    forth, back = fid(sets["samples"], sets["reference"]), fid(sets["reference"], sets["samples"])
    assert forth == pytest.approx(back, rel=1e-12)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_fid_of_merged_shards_is_that_of_the_whole_in_any_order(order: tuple[int, ...]) -> None:
    sets = arrays("full_rank.npz")
    shards = torch.split(sets["samples"], 137)
    merged = Moments.empty(64)
    for place in order:
        merged = merged.merge(Moments.of(shards[place]))
    found = frechet_distance(merged.gaussian(), gaussian(sets["reference"]))
    assert found == pytest.approx(fid(sets["samples"], sets["reference"]), rel=1e-9)


@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall_count_exactly(k: int) -> None:
    sets, entry = arrays("full_rank.npz"), expected()["full_rank"][f"precision_recall_k{k}"]
    counts = precision_recall(sets["samples"], sets["reference"], k=k)
    assert (counts.num_samples_inside, counts.num_references_inside) == (
        entry["n_samples_inside"],
        entry["n_refs_inside"],
    )
    np.testing.assert_allclose(radii(sets["reference"], k=k)[:3], entry["ref_radii_first3"], rtol=1e-6)
    np.testing.assert_allclose(radii(sets["samples"], k=k)[:3], entry["sample_radii_first3"], rtol=1e-6)


@pytest.mark.parametrize("case", ["float64_small", "pr_pool_like", "rank_deficient_2048"])
def test_precision_and_recall_count_exactly_at_other_widths(case: str) -> None:
    sets, entry = arrays(f"{case}.npz"), expected()[case]["precision_recall_k3"]
    counts = precision_recall(sets["samples"], sets["reference"])
    assert counts.num_samples_inside == entry["n_samples_inside"]
    assert counts.num_references_inside == entry["n_refs_inside"]


@pytest.mark.parametrize(("variant", "scale", "offset"), [("offset_1000", 1.0, 1000.0), ("scaled_16", 16.0, 0.0)])
def test_precision_and_recall_survive_offset_and_scale(variant: str, scale: float, offset: float) -> None:
    sets, entry = arrays("pr_pool_like.npz"), expected()["pr_pool_like"][variant]
    counts = precision_recall(sets["samples"] * scale + offset, sets["reference"] * scale + offset)
    assert (counts.precision, counts.recall) == (entry["precision"], entry["recall"])


def test_a_point_on_the_boundary_of_a_ball_is_inside() -> None:
    sets, entry = arrays("integer_ties.npz"), expected()["integer_ties"]
    counts = precision_recall(sets["samples"], sets["reference"])
    assert (counts.precision, counts.recall) == (entry["precision"], entry["recall"])
    assert radii(sets["reference"]).tolist() == entry["ref_radii"]
    assert radii(sets["samples"]).tolist() == entry["sample_radii"]


@pytest.mark.parametrize("case", ["full_rank", "float64_small"])
def test_kid_is_the_unbiased_value_over_all_rows(case: str) -> None:
    sets = arrays(f"{case}.npz")
    found = kernel_distance(sets["samples"], sets["reference"]).value
    assert found == pytest.approx(expected()[case]["kid_poly3_unbiased_full"], rel=1e-9)


@pytest.mark.parametrize(
    ("logits", "entry", "block_size"),
    [
        ("logits", "logits_split_1000", 1000),
        ("logits_sorted", "logits_sorted_split_500", 500),
    ],
)
def test_inception_score_takes_blocks_in_file_order(logits: str, entry: str, block_size: int) -> None:
    found = inception_score(arrays("inception_score.npz")[logits], block_size=block_size)
    assert found == pytest.approx(expected()["inception_score"][entry]["exact"], rel=1e-6)


@pytest.mark.parametrize("case", ["logits", "logits_sorted", "logits_saturated"])
def test_inception_score_has_adms_block_size_unless_told(case: str) -> None:
    found = inception_score(arrays("inception_score.npz")[case])
    assert found == pytest.approx(expected()["inception_score"][case]["exact"], rel=1e-6)


def test_inception_score_of_logits_without_bias() -> None:
    sets = arrays("inception_score.npz")
    found = inception_score(sets["acts"] @ sets["weight"])
    assert found == pytest.approx(expected()["inception_score"]["acts_weight"]["exact"], rel=1e-6)


def test_an_adm_reference_gives_fid_and_sfid() -> None:
    entry, samples = expected()["adm_reference"], arrays("adm_samples_features.npz")
    reference = read_statistics(METRICS / "adm_reference_tiny.npz", {POOL: 64, SPATIAL: 63})
    spatial = flatten_spatial(samples["spatial_nchw"])
    assert spatial[0, :8].tolist() == entry["spatial_first_row_first8"]
    assert frechet_distance(gaussian(samples["pool"]), reference[POOL]) == pytest.approx(
        entry["fid"]["exact"], abs=1e-6
    )
    assert frechet_distance(gaussian(spatial), reference[SPATIAL]) == pytest.approx(entry["sfid"]["exact"], abs=1e-6)


DEGENERATE = expected()["degenerate"]["cases"]


@pytest.mark.parametrize("case", [name for name, entry in DEGENERATE.items() if entry.get("fid_exact") is not None])
def test_fid_of_degenerate_sets_is_finite_and_exact(case: str) -> None:
    sets = arrays("degenerate.npz")
    found = fid(sets[f"{case}__samples"], sets[f"{case}__reference"])
    assert found == pytest.approx(DEGENERATE[case]["fid_exact"], abs=1e-6)
    if DEGENERATE[case]["fid_exact"] == 0:
        assert found == 0


@pytest.mark.parametrize("case", [name for name, entry in DEGENERATE.items() if "precision" in entry])
def test_precision_and_recall_of_degenerate_sets(case: str) -> None:
    sets = arrays("degenerate.npz")
    counts = precision_recall(sets[f"{case}__samples"], sets[f"{case}__reference"])
    assert (counts.precision, counts.recall) == (DEGENERATE[case]["precision"], DEGENERATE[case]["recall"])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("one_sample", "at least 2"),
        ("empty", "at least 2"),
        ("nan", "row 3 "),
        ("inf", "row 11 "),
        ("dim_mismatch", "20 features an image, the reference has 24"),
    ],
)
def test_fid_refuses_what_has_no_distance(case: str, message: str) -> None:
    sets = arrays("degenerate.npz")
    with pytest.raises(DataError, match=message):
        fid(sets[f"{case}__samples"], sets[f"{case}__reference"])


@pytest.mark.parametrize("case", ["two_samples", "three_reference", "one_sample", "empty"])
def test_precision_and_recall_refuse_sets_without_a_third_neighbour(case: str) -> None:
    sets = arrays("degenerate.npz")
    with pytest.raises(DataError, match="k = 3"):
        precision_recall(sets[f"{case}__samples"], sets[f"{case}__reference"])


def test_center_crop_is_the_training_crop_of_the_references() -> None:
    tensors = load_file(DATA / "center_crop.safetensors")
    cases = json.loads((DATA / "center_crop.json").read_text())["cases"]
    for number, case in enumerate(cases):
        cropped = center_crop(Image.fromarray(tensors[f"case_{number}.image"].numpy()), case["size"])
        difference = cropped.astype(int) - tensors[f"case_{number}.crop"].numpy()
        assert np.abs(difference).max() <= 1


def test_pixels_are_rounded_as_the_references_do() -> None:
    entry = json.loads((DATA / "image_rounding.json").read_text())
    assert to_uint8(torch.tensor(entry["x"])).tolist() == entry["uint8"]


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of 96 MB with the golden set's random numbers."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(random_weights(), path)
    return path


def test_inception_features_match_the_reference_network(inception_weights: Path) -> None:
    golden = arrays("inception_random_features.npz")
    found = load_inception(inception_weights).features(arrays("images_4.npz")["arr_0"])
    entry = expected("expected_inception.json")["features"]
    for kind, name, key in (
        (POOL, "pool", "2048"),
        (LOGITS, "logits_unbiased", "logits_unbiased"),
        (SPATIAL, "spatial", "spatial_2023"),
    ):
        torch.testing.assert_close(found[kind], golden[name], rtol=0, atol=1e-4 * float(golden[name].abs().max()))
        np.testing.assert_allclose(found[kind].double().square().sum(dim=1), entry[key]["row_sumsq_f64"], rtol=1e-4)


def test_features_are_torch_fidelitys_own_to_one_in_a_million(inception_weights: Path) -> None:
    images_BYXC = arrays("images_4.npz")["arr_0"][:2]
    found = load_inception(inception_weights).features(images_BYXC)
    own = fidelitys_own(inception_weights)(images_BYXC.permute(0, 3, 1, 2))
    for kind, wanted in zip((POOL, LOGITS), own, strict=True):
        assert float((found[kind] - wanted).norm() / wanted.norm()) < 1e-6
        assert float((found[kind] - wanted).abs().max() / wanted.abs().max()) < 1e-6

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from medcli.errors import CheckFailed, DataError
from medcli.scores.moments import Gaussian
from medcli.scores.protocol import check_comparable, compared, differences, protocol_details, statistics_sha256
from medcli.scores.registry import load_extractor


def report(**changes: Any) -> dict[str, Any]:
    values = {
        "protocol": "adm",
        "num_samples": 50,
        "protocol_details": {"resize": "a", "dtype": "float32"},
        "provenance": {"extractor_sha256": "e", "reference_sha256": "r", "samples_sha256": "s", "torch": "2"},
    }
    return values | changes


def with_provenance(**changes: Any) -> dict[str, Any]:
    return report(provenance=report()["provenance"] | changes)


def test_details_name_everything_that_changes_a_number_in_plain_values() -> None:
    found = protocol_details(load_extractor("digits"))
    assert json.loads(json.dumps(found)) == found
    assert {"resize", "pool_layer", "dtype", "order", "inception_score_block_size"} < set(found)
    assert (found["inception_score_block_size"], found["precision_recall_neighbours"]) == (5000, 3)


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (report(num_samples=49), "num_samples"),
        (report(num_samples=None), "num_samples"),
        (report(protocol="clean"), "protocol"),
        (report(protocol_details={"resize": "b", "dtype": "float32"}), "resize"),
        (report(protocol_details={"resize": "a", "dtype": "float16"}), "dtype"),
        (with_provenance(extractor_sha256="x"), "extractor_sha256"),
        (with_provenance(reference_sha256="x"), "reference_sha256"),
    ],
)
def test_scores_of_different_protocols_are_not_put_side_by_side(other: dict[str, Any], key: str) -> None:
    protocols = {"a": compared(report()), "b": compared(other)}
    (found,) = differences(protocols)
    assert found.startswith(f"{key} is ")
    assert "for a" in found
    assert "for b" in found
    with pytest.raises(CheckFailed, match=f"do not compare: {key} is") as caught:
        check_comparable(protocols)
    assert "--force" in str(caught.value.hint)


@pytest.mark.parametrize(
    "other",
    [
        report(),
        with_provenance(samples_sha256="x", torch="3"),  # other samples, other software: that is the point
        with_provenance(reference_sha256=None),  # no metric needed it
    ],
)
def test_what_changes_no_number_is_no_difference(other: dict[str, Any]) -> None:
    check_comparable({"a": compared(report()), "b": compared(other)})


@pytest.mark.parametrize(
    ("content", "lacks"),
    [
        ({"fid": 3.0}, "protocol, protocol_details, provenance, num_samples"),
        (report(provenance=None), "provenance"),
        (report(protocol_details=[1]), "protocol_details"),
    ],
)
def test_a_file_of_another_kind_is_no_report(content: dict[str, Any], lacks: str) -> None:
    with pytest.raises(DataError, match=f"lacks {lacks}"):
        compared(content)


def test_statistics_have_the_hash_of_their_numbers() -> None:
    def hashed(mean: float, kind: str = "pool") -> str:
        gaussian = Gaussian(mean_D=torch.tensor([mean]).double(), covariance_DD=torch.eye(1).double(), num_rows=None)
        return statistics_sha256({kind: gaussian})

    assert hashed(1) == hashed(1)
    assert len({hashed(1), hashed(2), hashed(1, "spatial")}) == 3

from __future__ import annotations

import pytest
import torch

from medcli.errors import DataError
from medcli.metrics.inception_score import inception_score


def one_hot(classes: list[int], scale: float = 1000.0) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 4) * scale


def test_certain_verdicts_spread_over_all_classes_score_their_number() -> None:
    assert inception_score(one_hot([0, 1, 2, 3] * 5)) == pytest.approx(4, rel=1e-12)


def test_one_class_scores_one() -> None:
    assert inception_score(one_hot([2] * 6)) == pytest.approx(1, rel=1e-12)


def test_blocks_follow_file_order_and_a_short_last_one_counts_fully() -> None:
    # blocks: classes 0 and 1 (score 2), class 2 alone (score 1)
    assert inception_score(one_hot([0, 1, 2]), block_size=2) == pytest.approx(1.5, rel=1e-12)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="got 0"):
        inception_score(torch.empty(0, 4))

from __future__ import annotations

import pytest
import torch

from medcli.errors import DataError
from medcli.scores import inception_score as module
from medcli.scores.inception_score import inception_score, inception_score_estimate, order_loss


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


def random_logits(num: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(num, 10, generator=torch.Generator().manual_seed(seed))


def leave_one_out(logits: torch.Tensor) -> torch.Tensor:
    num = len(logits)
    values = torch.tensor([inception_score(logits[torch.arange(num) != row]) for row in range(num)]).double()
    return ((num - 1) / num) ** 0.5 * (values.mean() - values)


def test_the_error_of_one_block_is_the_jackknife_over_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", 7)
    logits = random_logits(30)
    found = inception_score_estimate(logits)
    assert found.value == inception_score(logits)
    assert found.standard_error == pytest.approx(float(leave_one_out(logits).norm()), rel=1e-5)


def test_the_error_of_several_blocks_adds_theirs_in_squares() -> None:
    logits = random_logits(25)  # the last block holds five
    found = inception_score_estimate(logits, block_size=10)
    parts = torch.cat([leave_one_out(block) for block in torch.split(logits, 10)]) / 3
    assert found.deviations_G is not None
    torch.testing.assert_close(found.deviations_G, parts, rtol=1e-4, atol=1e-6)


def test_a_last_block_of_one_image_has_no_part_in_the_error() -> None:
    found = inception_score_estimate(random_logits(11), block_size=10)
    assert found.deviations_G is not None
    assert found.deviations_G[-1] == 0
    assert found.standard_error == pytest.approx(float(leave_one_out(random_logits(11)[:10]).norm()) / 2, rel=1e-5)


def test_verdicts_of_zero_probability_leave_the_error_finite() -> None:
    found = inception_score_estimate(one_hot([0, 1, 2, 3] * 5))
    assert found.standard_error is not None
    assert 0 <= found.standard_error < 1


def test_one_image_has_no_error() -> None:
    assert inception_score_estimate(random_logits(1)).standard_error is None


def test_sorted_classes_lose_score_and_mixed_ones_do_not() -> None:
    by_class = one_hot([0] * 10 + [1] * 10 + [2] * 10 + [3] * 10)
    assert order_loss(by_class, block_size=10) > 0.5
    mixed = by_class[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    assert abs(order_loss(mixed, block_size=20)) < 0.1
    assert order_loss(by_class) == pytest.approx(0, abs=1e-12)  # one block has no order

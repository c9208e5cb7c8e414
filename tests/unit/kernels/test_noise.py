"""The noise kernel in Triton's interpreter against the same words in torch."""

import pytest
import torch

from tests.unit.kernels import interpreter  # noqa: F401

from medcli.kernels.noise import draw, serves  # isort: skip
from medcli.runtime.noise import Stream, normal  # isort: skip

INDEX_B, STEP_B = torch.tensor([0, 17, 2**40 + 5]), torch.tensor([0, 3, 2**32 - 1])


@pytest.mark.parametrize("seed", [0, 7, 2**35 + 7, 2**63 + 12345, -3])
@pytest.mark.parametrize("size", [8, 63, 1023])
def test_the_kernel_draws_the_same_noise(seed, size):
    assert serves(size)
    drawn_BW = draw(seed, INDEX_B, STEP_B, size, int(Stream.TRAIN_NOISE))
    expected_BW = normal(seed, INDEX_B, STEP_B, (size,), Stream.TRAIN_NOISE)
    torch.testing.assert_close(drawn_BW, expected_BW, rtol=1e-6, atol=1e-6)


def test_rows_may_be_strided():
    both_2B = torch.stack([INDEX_B, STEP_B], dim=1).T
    drawn_BW = draw(1, both_2B[0], both_2B[1], 16, 0)
    assert torch.equal(drawn_BW, draw(1, INDEX_B, STEP_B, 16, 0))


def test_half_an_image_is_whole_groups_of_words():
    assert [size for size in range(1, 33) if serves(size)] == [7, 8, 15, 16, 23, 24, 31, 32]

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from medcli.data.latent_set import Content, LatentSet, check_scale, measured_std
from medcli.data.training_set import flip_coins
from medcli.errors import DataError
from medcli.runtime.noise import Stream, normal

SCALE = 0.18215
LATENTS = torch.randn(40, 4, 6, 6, generator=torch.Generator().manual_seed(0))
MOMENTS = torch.cat([LATENTS, torch.rand(40, 4, 6, 6, generator=torch.Generator().manual_seed(1))], dim=1)


@dataclass
class Stored:
    """Rows in memory."""

    rows: Tensor
    has_flips: bool = False
    name: str = "store"
    fingerprint: str = "f"
    labels_N: npt.NDArray[np.int64] = field(default_factory=lambda: np.arange(40) % 7)
    expected: list[tuple[list[int], list[bool]]] = field(default_factory=list)
    was_read: list[tuple[list[int], list[bool]]] = field(default_factory=list)

    @property
    def shape_RYX(self) -> tuple[int, int, int]:
        channels, height, width = self.rows.shape[1:]
        return channels, height, width

    def expect(self, picks: list[int], flips: list[bool]) -> None:
        self.expected.append((picks, flips))

    def read(self, picks: list[int], flips: list[bool]) -> Tensor:
        self.was_read.append((picks, flips))
        assert self.has_flips or not any(flips)
        rows = self.rows[picks].clone()
        return torch.where(torch.tensor(flips)[:, None, None, None], rows.flip(-1), rows)

    def place(self, pick: int) -> str:
        return f"row {pick}"


def latent_set(rows: Tensor, content: Content = Content.LATENT, *, flips: bool = False, scale: float = 1) -> LatentSet:
    return LatentSet(rows=Stored(rows, has_flips=flips), content=content, scale=scale, shift=0.0)


PICKS, POSITIONS = torch.tensor([3, 39, 3, 0, 12, 13]), torch.arange(50, 56)


def test_latents_are_shifted_and_then_scaled() -> None:
    data = replace(latent_set(LATENTS), scale=2.0, shift=0.5)
    read, labels_B = data.read(PICKS, POSITIONS, 0)
    assert torch.equal(read, (LATENTS[PICKS] - 0.5) * 2)
    assert labels_B.tolist() == [3, 4, 3, 0, 5, 6]
    assert (labels_B.dtype, data.num_images, data.num_classes, data.shape_CYX) == (torch.int64, 40, 7, (4, 6, 6))


@pytest.mark.parametrize("content", [Content.MEAN_LOG_VARIANCE, Content.MEAN_STD])
def test_moments_are_drawn_anew_at_each_place_of_a_run(content: Content) -> None:
    data = latent_set(MOMENTS, content)
    read, _ = data.read(PICKS, POSITIONS, 9)
    mean, spread = MOMENTS[PICKS].chunk(2, dim=1)
    std = spread if content is Content.MEAN_STD else torch.exp(spread / 2)
    noise = normal(9, POSITIONS, torch.zeros(6, dtype=torch.int64), (4, 6, 6), Stream.TRAIN_POSTERIOR)
    assert torch.allclose(read, mean + std * noise)
    assert not torch.equal(read[0], read[2])
    assert data.shape_CYX == (4, 6, 6)
    assert torch.equal(data.read(PICKS, POSITIONS, 9)[0], read)
    assert not torch.equal(data.read(PICKS, POSITIONS, 8)[0], read)


def test_mirrored_rows_are_taken_by_coin_where_they_are_there() -> None:
    data = latent_set(LATENTS, flips=True)
    coins = flip_coins(POSITIONS, 4).tolist()
    assert 0 < sum(coins) < 6
    read, _ = data.read(PICKS, POSITIONS, 4)
    for row, pick, coin in zip(read, PICKS, coins, strict=True):
        assert torch.equal(row, LATENTS[pick].flip(-1) if coin else LATENTS[pick])
    for plain in (latent_set(LATENTS), replace(data, flip=False)):
        assert torch.equal(plain.read(PICKS, POSITIONS, 4)[0], LATENTS[PICKS])


@pytest.mark.parametrize("flips", [True, False])
def test_the_rows_expected_are_those_that_are_read(flips: bool) -> None:
    data = latent_set(LATENTS, flips=flips)
    data.expect(PICKS, POSITIONS, 4)
    data.read(PICKS, POSITIONS, 4)
    assert isinstance(data.rows, Stored)
    assert data.rows.expected == data.rows.was_read != []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_latents_are_named(value: float) -> None:
    rows = LATENTS.clone()
    rows[12, 1, 2, 3] = value
    with pytest.raises(DataError, match="row 12 holds NaN or infinite"):
        latent_set(rows).read(PICKS, POSITIONS, 0)


def test_rows_of_zeros_are_named() -> None:
    rows = LATENTS.clone()
    rows[12] = 0
    with pytest.raises(DataError, match="row 12 holds zeros alone"):
        latent_set(rows).read(PICKS, POSITIONS, 0)


def test_finite_latents_with_an_infinite_sum_are_read() -> None:
    rows = torch.full_like(LATENTS, 3e38)
    assert latent_set(rows).read(PICKS, POSITIONS, 0)[0].isfinite().all()


def test_the_measured_deviation_is_the_typical_one_of_a_channel() -> None:
    spread = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]
    # The means of channels differ; that is not spread.
    data = latent_set(LATENTS * spread + 100 * spread)
    assert measured_std(data) == pytest.approx((30 / 4) ** 0.5, rel=0.05)


@pytest.mark.parametrize("std", [0.35, 0.7, 1.0, 1.9])
def test_well_scaled_latents_pass(std: float) -> None:
    check_scale(latent_set(LATENTS * std), SCALE)
    check_scale(latent_set(LATENTS * std / SCALE, scale=SCALE), SCALE)


@pytest.mark.parametrize(
    ("factor", "scale", "said", "fix"),
    [
        (1 / SCALE, 1.0, "standard deviation 5.4[0-9] .* stored without the factor 0.18215", "multiply"),
        (1.0, SCALE, "standard deviation 0.182 .* stored with the factor 0.18215 already", "divide"),
        (1e-4, 1.0, "no factor 0.18215 explains it", "another autoencoder"),
        (1e4, 1.0, "no factor 0.18215 explains it", "another autoencoder"),
    ],
)
def test_wrong_scaling_is_measured_and_explained(factor: float, scale: float, said: str, fix: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        check_scale(latent_set(LATENTS * factor, scale=scale), SCALE)
    assert fix in (caught.value.hint or "")

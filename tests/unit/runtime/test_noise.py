import sys

import pytest
import torch
from torch import Tensor

from medcli import kernels
from medcli.runtime import noise
from medcli.runtime.noise import Stream, integers, normal, philox, uniform, words

# Known answers of Random123's own test suite (kat_vectors, philox4x32 10): counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def hex_words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def numbers(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = (numbers(word) for word in hex_words(counter))
    k0, k1 = hex_words(key)
    assert [int(word) for word in philox((c0, c1, c2, c3), (k0, k1))] == hex_words(expected)


# Images of a seed must stay what they were: (seed, stream) and the words of (image, step) 0, 0; 17, 3; 2^40 + 5, 249.
WORDS_OF = {
    (0, Stream.NOISE): [
        [1713891541, 3781805453, 3159862348, 2600524760, 4175744164],
        [4245245701, 2206061069, 2723724175, 604849278, 3635290089],
        [655726538, 3882587236, 1690862101, 3395995215, 957645681],
    ],
    (2**35 + 7, Stream.TRAIN_LABEL_DROP): [
        [2924153854, 1183438933, 1368719694, 2715594894, 3174923737],
        [828013092, 448417588, 3064745918, 941662483, 1672153341],
        [3933626399, 129378383, 2450235471, 2026813596, 898737579],
    ],
}
NORMALS = [
    [-0.12151814997196198, -0.39766740798950195, -1.3500325679779053, -0.3103955090045929],
    [-0.10151805728673935, 0.7311616539955139, -0.11394110321998596, 0.8932375311851501],
    [-1.5220714807510376, 0.1136307567358017, 1.2009202241897583, -0.43470966815948486],
]
INDICES, STEPS = (0, 17, 2**40 + 5), (0, 3, 249)


@pytest.mark.parametrize(("seed", "stream"), WORDS_OF)
def test_the_words_of_a_seed_are_pinned(seed: int, stream: Stream) -> None:
    drawn = words(seed, numbers(*INDICES), numbers(*STEPS), 5, stream)
    assert drawn.tolist() == WORDS_OF[seed, stream]


def test_the_noise_of_a_seed_is_pinned() -> None:
    drawn = normal(0, numbers(*INDICES), numbers(*STEPS), (2, 2), Stream.NOISE)
    torch.testing.assert_close(drawn, torch.tensor(NORMALS).reshape(3, 2, 2), rtol=1e-6, atol=1e-6)


def test_the_number_of_a_stream_is_pinned() -> None:
    numbered = {stream.name: int(stream) for stream in Stream}
    assert numbered == {
        **{"NOISE": 0, "LABEL": 1, "TRAIN_NOISE": 2, "TRAIN_TIME": 3, "TRAIN_LABEL_DROP": 4, "DATA_ORDER": 5},
        **{"TRAIN_FLIP": 6, "TRAIN_POSTERIOR": 7, "TRAIN_COUNT": 8, "CALIBRATION": 9, "TRAIN_MASK": 10},
        **{"TRAIN_MASK_RATIO": 11, "SCORE_SUBSET": 16, "QUERY_ORDER": 17},
    }


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 32, 32), (3, 5, 7)])
def test_noise_of_an_image_does_not_depend_on_its_batch(shape: tuple[int, ...]) -> None:
    index_B, step_B = torch.arange(9), torch.tensor([0, 3, 1, 4, 1, 5, 9, 2, 6])
    together = normal(7, index_B, step_B, shape, Stream.NOISE)
    for row in range(9):
        alone = normal(7, index_B[row : row + 1], step_B[row : row + 1], shape, Stream.NOISE)
        assert torch.equal(alone[0], together[row])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(normal(7, index_B[order], step_B[order], shape, Stream.NOISE), together[order])


def test_seed_index_step_and_stream_each_change_the_noise() -> None:
    base = words(0, numbers(0), numbers(0), 64, Stream.NOISE)
    others = [
        words(1, numbers(0), numbers(0), 64, Stream.NOISE),
        words(1 << 32, numbers(0), numbers(0), 64, Stream.NOISE),
        words(0, numbers(1), numbers(0), 64, Stream.NOISE),
        words(0, numbers(1 << 33), numbers(0), 64, Stream.NOISE),
        words(0, numbers(0), numbers(1), 64, Stream.NOISE),
        words(0, numbers(0), numbers(0), 64, Stream.LABEL),
    ]
    for other in others:
        assert (other == base).float().mean() < 0.1


def test_noise_is_standard_normal() -> None:
    noise = normal(3, torch.arange(200), torch.zeros(200, dtype=torch.int64), (4, 16, 16), Stream.NOISE)
    assert torch.isfinite(noise).all()
    assert abs(noise.mean().item()) < 0.01
    assert abs(noise.std().item() - 1) < 0.01
    assert abs((noise**4).mean().item() - 3) < 0.1
    # Neighbouring elements, and neighbouring images, are unrelated.
    assert abs((noise[:, :, :, 1:] * noise[:, :, :, :-1]).mean().item()) < 0.01
    assert abs((noise[1:] * noise[:-1]).mean().item()) < 0.01


def test_uniform_stays_inside_the_unit_interval_and_fills_it() -> None:
    values = uniform(0, torch.arange(1000), torch.zeros(1000, dtype=torch.int64), 3, Stream.TRAIN_TIME)
    assert values.dtype == torch.float64
    assert values.min() > 0
    assert values.max() < 1
    assert abs(values.mean().item() - 0.5) < 0.02


def test_integers_are_in_range_and_even() -> None:
    drawn = integers(0, torch.arange(5000), torch.zeros(5000, dtype=torch.int64), 10, Stream.LABEL)
    assert torch.bincount(drawn, minlength=10).shape == (10,)
    assert torch.bincount(drawn).min() > 400


def test_the_kernel_is_used_where_it_serves_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        """Stands for the Triton module."""

        @staticmethod
        def serves(size: int) -> bool:
            return size == 8

        @staticmethod
        def draw(seed: int, index_B: Tensor, step_B: Tensor, size: int, stream: int) -> Tensor:
            return torch.full((len(index_B), size), float(seed + stream))

    monkeypatch.setitem(sys.modules, "medcli.kernels.noise", Kernel)
    monkeypatch.setattr(kernels, "noise", Kernel, raising=False)
    plain = normal(3, numbers(5, 6), numbers(0, 0), (2, 4), Stream.TRAIN_NOISE)
    odd = normal(3, numbers(5, 6), numbers(0, 0), (3, 4), Stream.TRAIN_NOISE)
    monkeypatch.setattr(noise, "has_kernels", lambda device_type: device_type == "cpu")
    drawn = normal(3, numbers(5, 6), numbers(0, 0), (2, 4), Stream.TRAIN_NOISE)
    assert torch.equal(drawn, torch.full((2, 2, 4), 3.0 + Stream.TRAIN_NOISE))
    assert not torch.equal(drawn, plain)
    assert torch.equal(normal(3, numbers(5, 6), numbers(0, 0), (3, 4), Stream.TRAIN_NOISE), odd)


def test_a_uniform_number_is_the_middle_of_its_words_interval() -> None:
    where = torch.arange(9), torch.zeros(9, dtype=torch.int64), 2, Stream.TRAIN_TIME
    assert torch.equal(uniform(3, *where) * 2.0**32, words(3, *where).double() + 0.5)

"""Noise as a function of (seed, index, step): a counter-based generator instead of a stream.

What image 17 receives at step 40 does not depend on the batch it is in, on the number of processes or on what was drawn
before. The integer part is exact on every device; the transform to normals may differ in its last bit between devices.

On a GPU a draw is one Triton kernel (`medcli.kernels.noise`) instead of a hundred small operations, where Triton works.
Which of the two runs is a property of the machine and the size, so that every draw of a run is made alike.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), Philox4x32 with 10 rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from medcli.kernels.available import has_kernels

# Dimension key: B images, G groups of four words, W = 4 G words.

WORD_MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
CACHED_GROUPS = 1 << 16
"""Groups of words that are drawn at a time on a CPU core: a tensor of them takes 512 KiB."""


class Stream(IntEnum):
    """Purpose of random numbers. Two uses of one (seed, index, step) must not share a stream."""

    NOISE = 0
    LABEL = 1
    TRAIN_NOISE = 2
    TRAIN_TIME = 3
    TRAIN_LABEL_DROP = 4
    DATA_ORDER = 5
    TRAIN_FLIP = 6
    TRAIN_POSTERIOR = 7
    TRAIN_COUNT = 8
    CALIBRATION = 9
    TRAIN_MASK = 10
    TRAIN_MASK_RATIO = 11
    SCORE_SUBSET = 16
    QUERY_ORDER = 17


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10 on int64 tensors that hold 32-bit words.

    Args:
        counter: Four words, tensors that broadcast together.
        key: Two words.

    Returns:
        Four tensors of random words in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # int64 wraps modulo 2^64, so all 64 bits are right. High words are cut when they are combined, low words last.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0 = _combined(product1 >> 32, c1).bitwise_xor_(k0).bitwise_and_(WORD_MASK)
        c2 = _combined(product0 >> 32, c3).bitwise_xor_(k1).bitwise_and_(WORD_MASK)
        c1, c3 = product1, product0
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD_MASK, (k1 + KEY_STEPS[1]) & WORD_MASK
    return c0, c1 & WORD_MASK, c2, c3 & WORD_MASK


def _combined(high: Tensor, low: Tensor) -> Tensor:
    """Combine words by exclusive or, in place where the first has the shape of both."""
    return high.bitwise_xor_(low) if high.shape == low.shape else high ^ low


def words(seed: int, index_B: Tensor, step_B: Tensor, count: int, stream: Stream) -> Tensor:
    """Draw random 32-bit words for each image.

    Args:
        seed: Any integer; its low 64 bits count.
        index_B: (B,) int64 image numbers in [0, 2^48).
        step_B: (B,) int64 step numbers in [0, 2^32).
        count: Words per image.
        stream: Purpose of the words.

    Returns:
        (B, count) int64 in [0, 2^32), on the device of `index_B`.
    """
    return _interleaved(_words(seed, index_B, step_B, count, stream), count)


def _words(seed: int, index_B: Tensor, step_B: Tensor, count: int, stream: Stream) -> tuple[Tensor, ...]:
    """Draw at least `count` words for each image: the first, second, third and fourth of each group, (B, G) each."""
    group_1G = torch.arange(math.ceil(count / 4), device=index_B.device)[None]
    index_B1, step_B1 = index_B[:, None], step_B[:, None]
    counter = (group_1G, step_B1, index_B1 & WORD_MASK, (index_B1 >> 32) | (int(stream) << 16))
    return philox(counter, (seed & WORD_MASK, (seed >> 32) & WORD_MASK))


def _interleaved(parts: Sequence[Tensor], count: int) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*parts), dim=-1).flatten(1)[:, :count]


def uniform(seed: int, index_B: Tensor, step_B: Tensor, count: int, stream: Stream) -> Tensor:
    """(B, count) float64 in (0, 1): each image's own numbers. Arguments as for `words`."""
    return (words(seed, index_B, step_B, count, stream).double() + 0.5) * 2.0**-32


def integers(seed: int, index_B: Tensor, step_B: Tensor, high: int, stream: Stream) -> Tensor:
    """(B,) int64 in [0, high), one per image. Arguments as for `words`."""
    return (words(seed, index_B, step_B, 1, stream)[:, 0] * high) >> 32


def normal(seed: int, index_B: Tensor, step_B: Tensor, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """Draw standard normal noise for each image.

    Args:
        seed: Any integer; its low 64 bits count.
        index_B: (B,) int64 image numbers.
        step_B: (B,) int64 step numbers; they may differ within the batch.
        shape: Shape of one image's noise.
        stream: Purpose of the noise.

    Returns:
        (B, *shape) float32, on the device of `index_B`. Box-Muller over pairs of words.
    """
    size = math.prod(shape)
    drawn_BW = _in_kernel(seed, index_B, step_B, size, stream)
    if drawn_BW is None:
        drawn_BW = _in_torch(seed, index_B, step_B, size, stream)
    return drawn_BW.reshape(len(index_B), *shape)


def _in_kernel(seed: int, index_B: Tensor, step_B: Tensor, size: int, stream: Stream) -> Tensor | None:
    """Draw (B, size) normal numbers in one launch; None where no kernel serves. Same words, last bits may differ."""
    if not has_kernels(index_B.device.type):
        return None
    # Triton is not installed everywhere.
    from medcli.kernels import noise as kernel

    return kernel.draw(seed, index_B, step_B, size, int(stream)) if kernel.serves(size) else None


def _in_torch(seed: int, index_B: Tensor, step_B: Tensor, size: int, stream: Stream) -> Tensor:
    """Draw (B, size) normal numbers, on a CPU so many images at a time that their words stay in its cache."""
    if not index_B.is_cpu:
        return _normal_of_words(_words(seed, index_B, step_B, 2 * math.ceil(size / 2), stream), size)
    drawn_BW = torch.empty(len(index_B), size)
    rows = max(1, CACHED_GROUPS * torch.get_num_threads() // math.ceil(size / 4))
    for index, step, drawn in zip(*(part.split(rows) for part in (index_B, step_B, drawn_BW)), strict=True):
        drawn.copy_(_normal_of_words(_words(seed, index, step, 2 * math.ceil(size / 2), stream), size))
    return drawn_BW


def _normal_of_words(parts: Sequence[Tensor], size: int) -> Tensor:
    half = math.ceil(size / 2)
    unit_BW = _interleaved([part.float().add_(0.5).mul_(2.0**-32) for part in parts], 2 * half)
    radius = unit_BW[:, :half].log().mul_(-2.0).sqrt_()
    angle = unit_BW[:, half:] * (2.0 * math.pi)
    return torch.cat([radius * torch.cos(angle), angle.sin_().mul_(radius)], dim=1)[:, :size]

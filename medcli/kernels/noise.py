"""The noise of `medcli.runtime.noise` as one launch: Philox4x32 with 10 rounds and Box-Muller. Imports Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Dimension key: B images, G groups of four words, W = 4 G words.

GROUP = 4
"""Words of a Philox block."""
TILE = 256
"""Most groups of a program."""


@triton.jit(do_not_specialize=["seed"])
def _draw(
    index_ptr, step_ptr, out_ptr, seed, STREAM: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr, T: tl.constexpr
):
    b = tl.program_id(1).to(tl.int64)
    index, step = tl.load(index_ptr + b), tl.load(step_ptr + b)
    group = tl.program_id(0) * T + tl.arange(0, T)
    zero = group.to(tl.uint32) * 0
    c1 = step.to(tl.uint32) + zero
    c2 = (index & 0xFFFFFFFF).to(tl.uint32) + zero
    c3 = ((index >> 32) | (STREAM << 16)).to(tl.uint32) + zero
    # Half of the words is a whole number of groups, so a group's radii meet the angles of one other group.
    u0, u1, u2, u3 = tl.philox(seed, group.to(tl.uint32), c1, c2, c3)
    w0, w1, w2, w3 = tl.philox(seed, (group + HALF // 4).to(tl.uint32), c1, c2, c3)
    out_ptr += b * SIZE
    for part in tl.static_range(4):
        u = u0 if part == 0 else (u1 if part == 1 else (u2 if part == 2 else u3))
        w = w0 if part == 0 else (w1 if part == 1 else (w2 if part == 2 else w3))
        radius = tl.sqrt(-2.0 * tl.log((u.to(tl.float32) + 0.5) * 2.3283064365386963e-10))
        angle = (w.to(tl.float32) + 0.5) * 2.3283064365386963e-10 * 6.283185307179586
        place = group * 4 + part
        tl.store(out_ptr + place, radius * tl.cos(angle), mask=place < HALF)
        tl.store(out_ptr + HALF + place, radius * tl.sin(angle), mask=(place < HALF) & (HALF + place < SIZE))


def serves(size: int) -> bool:
    """Return whether the kernel draws images of this many numbers: half of them must be whole groups."""
    return -(-size // 2) % GROUP == 0


def draw(seed: int, index_B: Tensor, step_B: Tensor, size: int, stream: int) -> Tensor:
    """Draw standard normal numbers.

    Args:
        seed: Any integer; its low 64 bits count.
        index_B: (B,) int64 image numbers in [0, 2^48).
        step_B: (B,) int64 step numbers in [0, 2^32).
        size: Numbers of an image, see `serves`.
        stream: Purpose of the noise.

    Returns:
        (B, size) float32, of the very words of `medcli.runtime.noise.words`.
    """
    half = -(-size // 2)
    out_BW = torch.empty(len(index_B), size, device=index_B.device)
    tile = min(TILE, triton.next_power_of_2(half // GROUP))
    grid = (triton.cdiv(half // GROUP, tile), len(index_B))
    words = {"STREAM": stream, "SIZE": size, "HALF": half, "T": tile}
    with torch.cuda.device_of(index_B):  # Triton launches on the current device, which is a thread's own
        _draw[grid](index_B.contiguous(), step_B.contiguous(), out_BW, seed & 0xFFFFFFFFFFFFFFFF, **words)
    return out_BW

"""Parts of a block: its MLP, and those of LightningDiT and REPA: RMSNorm, SwiGLU, rotary positions, q/k norm.

Source: LightningDiT (arXiv 2501.01423), REPA (arXiv 2410.06940).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcli.config_checks import MlpKind, Norm
from medcli.errors import require_complete
from medcli.model.grid_tables import rotation_tables
from medcli.model.linear import Linear, linear_gelu
from medcli.model.part_kinds import MLP_LAYERS, NORMS

# Dimension key: B batch, H heads, N tokens, M mediators, K head width, D model width.

RMS_EPS = 1e-6
LAYER_EPS = 1e-5
"""Epsilon of the LayerNorm of queries and keys; that of tokens is 1e-6."""


class RmsNorm(nn.Module):
    """Division by the root mean square of the last axis, in float32, then a weight for each channel."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., size); the type is the input's."""
        normed = F.rms_norm(x.float(), self.weight.shape, eps=RMS_EPS).to(x.dtype)
        return (normed * self.weight).to(x.dtype)


TOKEN_NORMS: Mapping[Norm, Callable[[int], nn.Module] | None] = MappingProxyType({"layer": None, "rms": RmsNorm})
"""Norms of tokens; None: LayerNorm without parameters."""
HEAD_NORMS: Mapping[Norm, Callable[[int], nn.Module]] = MappingProxyType(
    {"layer": partial(nn.LayerNorm, eps=LAYER_EPS), "rms": RmsNorm}
)
"""Norms of each head's queries and keys."""
require_complete("norm", TOKEN_NORMS, NORMS)
require_complete("norm", HEAD_NORMS, NORMS)


def token_norm(kind: Norm, width: int) -> nn.Module | None:
    """Create the norm of tokens; None if it has no parameters."""
    make = TOKEN_NORMS[kind]
    return None if make is None else make(width)


def head_norm(kind: Norm, head_width: int) -> nn.Module:
    """Create the norm of each head's queries or keys."""
    return HEAD_NORMS[kind](head_width)


class Mlp(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.fc1 = Linear(hidden_size, mlp_size)
        self.fc2 = Linear(mlp_size, hidden_size)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Transform each token by itself."""
        out_BND: Tensor = self.fc2(linear_gelu(x_BND, self.fc1.weight, self.fc1.bias))
        return out_BND


class SwiGlu(nn.Module):
    """Three linear layers: the first product through SiLU, times the second, projected back."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = Linear(width, 2 * hidden)
        self.w3 = Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Transform each token by itself."""
        gate, value = self.w12(x_BND).chunk(2, dim=-1)
        out_BND: Tensor = self.w3(F.silu(gate) * value)
        return out_BND


MLPS: Mapping[MlpKind, Callable[[int, int], nn.Module]] = MappingProxyType({"gelu": Mlp, "swiglu": SwiGlu})
require_complete("MLP", MLPS, MLP_LAYERS)


class Rotary:
    """Rotation of queries and keys by their place on the square grid; tables are computed once for each device.

    Each pair of neighbouring channels turns by an angle proportional to the row (first half of a head's channels) or
    the column (second half), so that the product of a query and a key depends on their offset alone. A mediator has
    the place of its pool's centre.

    Args:
        tokens_side: Tokens along one side.
        head_width: Channels of a head, a multiple of 4.
        scale: `ModelConfig.position_scale`.
    """

    def __init__(self, tokens_side: int, head_width: int, scale: float = 1.0) -> None:
        self._side, self._width, self._scale = tokens_side, head_width, scale
        self._tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def tokens(self, x_BHNK: Tensor) -> Tensor:
        """Rotate the queries or keys of all tokens, (B, H, N, K)."""
        return self._rotated(x_BHNK, self._side)

    def mediators(self, x_BHMK: Tensor) -> Tensor:
        """Rotate mediators, (B, H, M, K), by the centres of their pools."""
        return self._rotated(x_BHMK, math.isqrt(x_BHMK.shape[2]))

    def _rotated(self, x_BHNK: Tensor, points_side: int) -> Tensor:
        """Rotate pairs (a, b) to (a cos - b sin, b cos + a sin), in float32 at least."""
        cos_NK, sin_NK = self._tables_of(points_side, x_BHNK.device)
        wide = x_BHNK.to(torch.promote_types(x_BHNK.dtype, torch.float32))
        turned = torch.stack([-wide[..., 1::2], wide[..., ::2]], dim=-1).flatten(-2)
        return (wide * cos_NK + turned * sin_NK).to(x_BHNK.dtype)

    def _tables_of(self, points_side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        # A compiled graph computes them itself: looking them up would leave the graph.
        if torch.compiler.is_compiling() or device.type == "meta":
            return self._make(points_side, device)
        key = (points_side, device)
        if key not in self._tables:
            self._tables[key] = self._make(points_side, device)
        return self._tables[key]

    def _make(self, points_side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        cos_NK, sin_NK = rotation_tables(self._side, self._width, points_side, self._scale)
        return torch.from_numpy(cos_NK).to(device), torch.from_numpy(sin_NK).to(device)

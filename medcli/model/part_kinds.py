"""Kinds of norm and MLP: the tensors and the cost of each. Torch-free; `medcli.model.parts` implements them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from medcli.config_checks import MlpKind, Norm
from medcli.errors import require_complete

PLAIN_NORM: Norm = "layer"
PLAIN_MLP: MlpKind = "gelu"
PARAMETERS = ("weight", "bias")


@dataclass(frozen=True, kw_only=True, slots=True)
class NormKind:
    """Parameters and cost of a kind of norm."""

    of_tokens: tuple[str, ...]
    """Parameters of the norms of tokens, each as wide as a token."""
    of_heads: tuple[str, ...]
    """Parameters of the norms of queries and keys, each as wide as a head."""
    operator: str
    """fvcore's name of the operator."""
    macs: int
    """MACs per element of a norm of tokens."""
    head_macs: int
    """MACs per element of a norm of queries or keys."""


NORMS: Mapping[Norm, NormKind] = MappingProxyType(
    {
        "layer": NormKind(of_tokens=(), of_heads=PARAMETERS, operator="layer_norm", macs=4, head_macs=5),
        # Subtracts no mean; the weight is a multiplication of its own, which is free.
        "rms": NormKind(of_tokens=("weight",), of_heads=("weight",), operator="rms_norm", macs=3, head_macs=3),
    }
)
require_complete("norm", NORMS, get_args(Norm))

Layers = Mapping[str, tuple[int, int]]
"""Rows and columns of each linear layer, by name."""
MLP_LAYERS: Mapping[MlpKind, Callable[[int, int], Layers]] = MappingProxyType(
    {
        "gelu": lambda width, hidden: {"fc1": (hidden, width), "fc2": (width, hidden)},
        "swiglu": lambda width, hidden: {"w12": (2 * hidden, width), "w3": (width, hidden)},
    }
)
"""Linear layers of an MLP from its width and hidden size, the first of a name that no other kind has."""
require_complete("MLP", MLP_LAYERS, get_args(MlpKind))


def norm_of(shapes: Mapping[str, tuple[int, ...]], name: str) -> Norm:
    """Return the kind of a norm of tokens by the parameters it has among tensors of these names."""
    found = tuple(part for part in PARAMETERS if f"{name}.{part}" in shapes)
    return next((kind for kind, made in NORMS.items() if made.of_tokens == found), PLAIN_NORM)


def mlp_of(shapes: Mapping[str, tuple[int, ...]], name: str) -> MlpKind:
    """Return the kind of an MLP by its first layer among tensors of these names."""
    return next((kind for kind in MLP_LAYERS if f"{name}.{first_layer(kind)[0]}.weight" in shapes), PLAIN_MLP)


def first_layer(kind: MlpKind) -> tuple[str, int]:
    """Return the name of an MLP's first layer and its number of rows for each hidden channel."""
    name, (rows, _) = next(iter(MLP_LAYERS[kind](1, 1).items()))
    return name, rows

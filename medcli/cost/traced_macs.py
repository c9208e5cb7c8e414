"""Multiply-adds of the network counted by fvcore, exact at any resolution within a second.

Tracing runs the network, which takes a minute for a large one at 1024 px. But blocks of one kind cost the same, and
each cost is a polynomial of degree two in the number of tokens. So a network with one block of each kind is traced on
three small grids, extrapolated exactly to any grid, and compared with the closed form.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from medcli.config import ModelConfig
from medcli.cost.macs import macs_by_operator
from medcli.errors import MedcliError
from medcli.model.backbone import DiffusionTransformer, empty_model
from medcli.model.layout import block_kinds, block_names, one_of_each_kind, tensor_shapes
from medcli.model.part_kinds import NORMS
from medcli.runtime.timing import thread_limit

with warnings.catch_warnings():
    # On import fvcore compiles a loss that nobody here uses, in a way newer versions of torch deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from fvcore.nn import FlopCountAnalysis

TRACED_SIDES = (1, 2, 3)
"""Sides, in tokens, of the innermost traced grids: one more than the degree of the costs."""

FREE_OPERATORS = (
    "add", "cos", "div", "embedding", "exp", "flip", "gelu", "lift_fresh", "mT", "mul", "neg", "pow", "silu", "sin",
    "softmax", "sub",
    "unflatten", "unfold",
)  # fmt: skip
"""Operators that are free by convention, beside those fvcore itself ignores (moving data, sizes)."""

BUG_HINT = "this is a bug in medcli: please report it with your command and your versions of torch and fvcore"

Polynomial = tuple[Fraction, ...]
"""a, b, c of a + b N + c N^2 MACs for N tokens."""


@dataclass(frozen=True, slots=True)
class TracedCosts:
    """MACs of the parts of a network by operator, at any resolution."""

    around: Mapping[str, Polynomial]
    """Embedders, final layer, and modules between stages."""
    blocks: Mapping[int, Sequence[Mapping[str, Polynomial]]]
    """A block of each kind at each mediator count (0: full attention), in N tokens of the network's input."""

    def by_operator(self, config: ModelConfig, num_mediators: int) -> dict[str, int]:
        """Return the MACs of a forward pass by operator, under fvcore's names.

        Args:
            config: The traced network, at any resolution and with mediators in any blocks.
            num_mediators: A traced count.
        """
        places = enumerate(block_kinds(config))
        repeats = Counter((num_mediators if layer in config.mediator_layers else 0, kind) for layer, kind in places)
        total = Counter(_at(self.around, config.num_tokens))
        for (count, kind), times in repeats.items():
            block = _at(self.blocks[count][kind], config.num_tokens)
            total += Counter({name: times * macs for name, macs in block.items()})
        return dict(total)

    def macs(self, config: ModelConfig, num_mediators: int) -> float:
        """Return the MACs of a forward pass, checked against the closed form. Arguments as in `by_operator`.

        Raises:
            MedcliError: If the two disagree: the network's code and its description differ.
        """
        traced = self.by_operator(config, num_mediators)
        expected = macs_by_operator(config, num_mediators=num_mediators)
        for name in sorted({*traced, *expected}):
            if traced.get(name, 0) != expected.get(name, 0):
                raise MedcliError(
                    f"{name} costs {traced.get(name, 0):,} MACs by trace, {expected.get(name, 0):,} by closed form",
                    hint=BUG_HINT,
                )
        return float(sum(traced.values()))


def trace_costs(config: ModelConfig, counts: Iterable[int]) -> TracedCosts:
    """Trace one block of each kind, and the modules around the blocks.

    Args:
        config: The network; its resolution, ladder and layers with mediators do not matter.
        counts: Mediator counts, 0 for full attention.

    Raises:
        ConfigError: If a count is no perfect square.
        MedcliError: If the network uses an operator of unknown cost.
    """
    around: dict[str, Polynomial] = {}
    blocks: dict[int, Sequence[dict[str, Polynomial]]] = {}
    small = one_of_each_kind(config)
    sides = [side * config.halvings for side in TRACED_SIDES]
    # Values do not matter, but the meta device can't be traced: one zero tensor per shape.
    blank = cache(torch.zeros)
    with thread_limit(1):  # on these small grids more threads make tracing several times slower
        for count in dict.fromkeys(counts):
            traces = [_trace(small, count, side, blank) for side in sides]
            blocks[count] = [_polynomials(sides, [trace[kind + 1] for trace in traces]) for kind in range(small.depth)]
            around = _polynomials(sides, [trace[0] for trace in traces])
    return TracedCosts(around, blocks)


def _trace(
    config: ModelConfig, count: int, side: int, blank: Callable[[tuple[int, ...]], Tensor]
) -> list[Counter[str]]:
    """Return MACs by operator around the blocks, then in each block, on a grid of `side`^2 tokens."""
    ladder, layers = ((count,), tuple(range(config.depth))) if count else ((), ())
    small = replace(config, latent_size=side * config.patch_size, mediators=ladder, mediator_layers=layers)
    model = empty_model(small)
    model.load_state_dict({name: blank(shape) for name, shape in tensor_shapes(small).items()}, assign=True)
    counts = counts_by_module(model, count)
    in_blocks = [counts[name] for name in block_names(small)]
    around = counts[""].copy()
    for block in in_blocks:
        around.subtract(block)
    return [around, *in_blocks]


class _AtCount(nn.Module):
    """The network at a fixed mediator count, since fvcore only passes tensors."""

    def __init__(self, network: DiffusionTransformer, num_mediators: int) -> None:
        super().__init__()
        self.network = network
        self.num_mediators = num_mediators

    def forward(self, latent_BCYX: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
        """Run the network."""
        out_BCYX: Tensor = self.network(latent_BCYX, t_B, label_B, self.num_mediators)
        return out_BCYX


def counts_by_module(model: DiffusionTransformer, num_mediators: int) -> dict[str, Counter[str]]:
    """Count the MACs of each module by tracing a model.

    Args:
        model: A model with memory for its parameters; their values do not matter.
        num_mediators: A count of its ladder; 0 is full attention.

    Returns:
        MACs by operator of each module, by its name in the model; the whole model is "".

    Raises:
        MedcliError: If an operator has no handler.
    """
    config = model.config
    latent_BCYX = torch.zeros(1, config.in_channels, config.latent_size, config.latent_size)
    inputs = (latent_BCYX, torch.zeros(1), torch.zeros(1, dtype=torch.long))
    analysis = FlopCountAnalysis(_AtCount(model, num_mediators), inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle(**HANDLERS)
    # With gradients enabled, the network composes its position biases in each pass instead of caching them.
    with torch.enable_grad():
        counts = analysis.by_module_and_operator()
    if unknown := sorted(analysis.unsupported_ops()):
        raise MedcliError(
            f"the cost of {', '.join(unknown)} is unknown, so this network can't be counted", hint=BUG_HINT
        )
    return {name.removeprefix("network").removeprefix("."): count for name, count in counts.items() if name}


def _attention_handler(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """Count both matrix products of scaled-dot-product attention.

    Args:
        inputs: Values of the trace: queries (..., N, K), keys (..., L, K), values (..., L, V), and options.
        outputs: Values of the trace; not used.
    """
    query, key, value = (operand.type().sizes() for operand in inputs[:3])
    return Counter({"matmul": math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])})


def _rms_norm_handler(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """Count an RMSNorm."""
    return Counter({NORMS["rms"].operator: NORMS["rms"].macs * math.prod(inputs[0].type().sizes())})


Handler = Callable[[Sequence[Any], Sequence[Any]], Counter[str]]
HANDLERS: dict[str, Handler | None] = {
    "aten::scaled_dot_product_attention": _attention_handler,
    "aten::rms_norm": _rms_norm_handler,
    **{f"aten::{name}": None for name in FREE_OPERATORS},
}
"""Handlers beyond fvcore's own; None: free."""


def _polynomials(sides: Sequence[int], counts: Sequence[Mapping[str, int]]) -> dict[str, Polynomial]:
    """Interpolate each operator's counts on the traced grids."""
    tokens = [side**2 for side in sides]
    names = sorted(set[str]().union(*counts))
    return {name: _through(tokens, [count.get(name, 0) for count in counts]) for name in names}


def _through(points: Sequence[int], values: Sequence[int]) -> Polynomial:
    """Return the coefficients of the interpolating polynomial of least degree (Lagrange's form)."""
    terms = [Fraction(0)] * len(points)
    for point, value in zip(points, values, strict=True):
        basis = [Fraction(value)]
        for other in points:
            if other != point:
                # Multiply by (x - other) / (point - other).
                raised, scaled = [Fraction(0), *basis], [*(other * term for term in basis), Fraction(0)]
                basis = [(up - down) / (point - other) for up, down in zip(raised, scaled, strict=True)]
        terms = [term + more for term, more in zip(terms, basis, strict=True)]
    return tuple(terms)


def _at(polynomials: Mapping[str, Polynomial], num_tokens: int) -> dict[str, int]:
    """Evaluate the counts for a number of tokens."""
    return {
        name: int(sum(term * num_tokens**power for power, term in enumerate(terms)))
        for name, terms in polynomials.items()
    }

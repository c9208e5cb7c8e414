"""Multiply-adds of the network by closed form. Torch-free; `medcli.metrics.traced_macs` counts them from the code.

The convention is fvcore's, which is the papers': a multiply-add is one MAC (their "1 FLOP"); one image, one pass.
Counted beyond matrix products and convolutions: LayerNorm 4 per element, average pooling 1 per input element, bilinear
resizing 4 per output element. Free: softmax, activations, other additions and multiplications, look-ups, sinusoids.
Source: reference-facts 8.
"""

from __future__ import annotations

from dataclasses import replace

from medcli.config import ModelConfig
from medcli.model.shapes import FREQUENCY_FEATURES

LAYER_NORM_MACS = 4
"""Per element of a LayerNorm without affine parameters."""
RESIZE_MACS = 4
"""Per output element of a bilinear resize."""
LOCAL_TAPS = 9
"""Weights a channel of the 3 x 3 depth-wise convolution has."""
RESIZED_TABLES = 2
"""Bias tables of a mediator count that are resized to the token grid."""


def closed_form_macs(
    config: ModelConfig, *, resolution_px: int | None = None, num_mediators: int | None = None
) -> float:
    """Multiply-adds of one forward pass of one image.

    Args:
        config: The network.
        resolution_px: Side of the square image; None keeps the configuration's.
        num_mediators: An entry of the ladder; None the largest, 0 full attention in every block.

    Raises:
        ConfigError: If the resolution or the count does not fit the model.
    """
    sized = config if resolution_px is None else config.at_resolution(resolution_px)
    return float(sum(macs_by_operator(sized, num_mediators=num_mediators).values()))


def macs_by_operator(config: ModelConfig, *, num_mediators: int | None = None) -> dict[str, int]:
    """Multiply-adds of one forward pass of one image, under fvcore's names of the operators.

    Both matrix products of full attention and all four of mediator attention are `matmul`; the patch embedding and the
    depth-wise convolutions are `conv`. The bias tables' resize is counted in each pass, as the papers do, although
    sampling resizes them once.

    Args:
        config: The network.
        num_mediators: An entry of the ladder; None the largest, 0 full attention in every block.

    Returns:
        Operators that cost something.

    Raises:
        ConfigError: If the count is not in the ladder.
    """
    entry = config.entry(num_mediators)
    tokens, width = config.num_tokens, config.hidden_size
    mediated = len(config.mediator_layers) if entry else 0
    full_product = tokens**2 * (config.qk_size + width)
    mediator_product = 4 * entry * tokens * width
    counts = {
        "linear": _linear_macs(config),
        "conv": tokens * width * (config.in_channels * config.patch_size**2 + mediated * LOCAL_TAPS),
        "matmul": (config.depth - mediated) * full_product + mediated * mediator_product,
        "layer_norm": (2 * config.depth + 1) * LAYER_NORM_MACS * tokens * width,
        "adaptive_avg_pool2d": mediated * tokens * width,
        "upsample_bilinear2d": mediated * RESIZED_TABLES * RESIZE_MACS * config.num_heads * entry * tokens,
    }
    return {name: count for name, count in counts.items() if count}


def _linear_macs(config: ModelConfig) -> int:
    """Everything that multiplies by a weight matrix: projections, MLPs, adaLN, time embedding, final layer."""
    tokens, width = config.num_tokens, config.hidden_size
    per_token = width * (2 * config.qk_size + width) + width**2 + 2 * width * config.mlp_size
    blocks = config.depth * (tokens * per_token + 6 * width**2)
    final = tokens * width * config.patch_size**2 * config.out_channels + 2 * width**2
    return blocks + final + FREQUENCY_FEATURES * width + width**2


def dense(config: ModelConfig) -> ModelConfig:
    """The same network with full attention at full width in every block: what savings are measured against."""
    return replace(config, mediators=(), mediator_layers=(), qk_ratio=1.0)

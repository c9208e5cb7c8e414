"""Multiply-adds of the network in closed form. Torch-free; `medcli.cost.traced_macs` counts them from the code.

The convention is fvcore's, which is the papers': a multiply-add is one MAC (their "1 FLOP"); one image, one pass.
Counted beyond matrix products and convolutions: LayerNorm 4 per element (5 with parameters), RMSNorm 3, average pooling
1 per input element, bilinear resizing 4 per output element. Free: softmax, activations, rotations, other additions and
multiplications, look-ups, sinusoids.
Source: reference-facts 8, edt-facts 7.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

from medcli.config import ModelConfig
from medcli.model.layout import FREQUENCY_FEATURES, BlockGeometry, blocks, modulations, stages
from medcli.model.part_kinds import MLP_LAYERS, NORMS

GIGA = 1e9
RESIZE_MACS = 4
"""MACs per output element of a bilinear resize."""
LOCAL_TAPS = 9
"""Weights per channel of the 3 x 3 depth-wise convolution."""
RESIZED_TABLES = 2
"""Number of bias tables of a mediator count that are resized to the token grid."""


def closed_form_macs(
    config: ModelConfig, *, resolution_px: int | None = None, num_mediators: int | None = None
) -> float:
    """Return the multiply-adds of a forward pass of one image.

    Args:
        resolution_px: Side of the square image; None keeps the configuration's.
        num_mediators: A count of the ladder; None the largest, 0 full attention in every block.

    Raises:
        ConfigError: If the resolution or the count does not fit the model.
    """
    sized = config if resolution_px is None else config.at_resolution(resolution_px)
    return float(sum(macs_by_operator(sized, num_mediators=num_mediators).values()))


def macs_by_operator(config: ModelConfig, *, num_mediators: int | None = None) -> dict[str, int]:
    """Return the multiply-adds of a forward pass of one image by operator, under fvcore's names.

    Both matrix products of full attention and all four of mediator attention are `matmul`; the patch embedding and the
    depth-wise convolutions are `conv`. The bias tables' resize is counted in each pass, as the papers do, although
    sampling resizes them once.

    Args:
        num_mediators: A count of the ladder; None the largest, 0 full attention in every block.

    Returns:
        Multiply-adds of the operators that have any.

    Raises:
        ConfigError: If the count is not in the ladder.
    """
    count = config.resolve_count(num_mediators)
    counts = Counter(
        linear=_embedder_macs(config) + _final_macs(config) + _between_macs(config),
        conv=config.num_tokens * config.hidden_size * config.in_channels * config.patch_size**2,
    )
    norm = NORMS[config.norm]
    counts[norm.operator] = norm.macs * (config.num_tokens * config.hidden_size + _between_normed(config))
    for layer, block in enumerate(blocks(config)):
        counts += Counter(block_macs(config, block, count if layer in config.mediator_layers else 0))
    return {name: count for name, count in counts.items() if count}


def block_macs(config: ModelConfig, block: BlockGeometry, num_mediators: int) -> dict[str, int]:
    """Return the multiply-adds of a block by operator; 0 mediators is full attention."""
    tokens, width = block.num_tokens, block.width
    qk_size, mlp_size = round(width * config.qk_ratio), round(width * config.mlp_ratio)
    per_token = width * (2 * qk_size + width) + width**2
    per_token += sum(rows * columns for rows, columns in MLP_LAYERS[config.mlp](width, mlp_size).values())
    per_token += 2 * width**2 if block.has_skip else 0
    counts = {"linear": tokens * per_token + modulations(config) * config.hidden_size * width}
    norm = NORMS[config.norm]
    counts[norm.operator] = 2 * norm.macs * tokens * width
    if config.qk_norm:
        counts[norm.operator] += 2 * norm.head_macs * tokens * qk_size
    if not num_mediators:
        return {**counts, "matmul": tokens**2 * (qk_size + width)}
    return {
        **counts,
        "matmul": 4 * num_mediators * tokens * width,
        "conv": LOCAL_TAPS * tokens * width,
        "adaptive_avg_pool2d": tokens * width,
        "upsample_bilinear2d": RESIZED_TABLES * RESIZE_MACS * block.num_heads * num_mediators * tokens,
    }


def _embedder_macs(config: ModelConfig) -> int:
    return FREQUENCY_FEATURES * config.hidden_size + config.hidden_size**2


def _final_macs(config: ModelConfig) -> int:
    width = config.hidden_size
    return config.num_tokens * width * config.patch_size**2 * config.out_channels + 2 * width**2


def _between_macs(config: ModelConfig) -> int:
    """Return the MACs of linear layers between the stages of an EDT (edt-facts 7); 0 for one stage."""
    total, width = 0, config.hidden_size
    for here, after in pairwise(stages(config)):
        tokens = max(here.num_tokens, after.num_tokens)  # of the finer grid
        if here.num_tokens > after.num_tokens:
            total += 8 * width * here.width + tokens * here.width * after.width
        else:
            total += tokens * here.width * after.width + 4 * width * after.width + 2 * tokens * after.width**2
    return total


def _between_normed(config: ModelConfig) -> int:
    """Return the number of normalised values between the stages of an EDT."""
    return sum(
        here.num_tokens * here.width if here.num_tokens > after.num_tokens else 2 * after.num_tokens * after.width
        for here, after in pairwise(stages(config))
    )


def saving_percent(macs: float, dense_macs: float) -> float:
    """Return the percent of the dense cost saved, both in the same unit; negative if more is spent."""
    return 100 * (1 - macs / dense_macs)


def dense(config: ModelConfig) -> ModelConfig:
    """Return the network with full attention of full width in every block, the baseline of savings."""
    return replace(config, mediators=(), mediator_layers=(), qk_ratio=1.0)

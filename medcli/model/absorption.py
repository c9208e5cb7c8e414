"""Savings of multiplying mediators into the weights of queries and keys. Torch-free.

The scores of head h's mediators m_h against the keys are m_h (x W_k + b_k)^T = (m_h W_k^T) x^T + m_h b_k^T, and the
last term is constant along the tokens: their softmax ignores it. The scores of the queries are
(x W_q + b_q) m_h^T = x (W_q m_h^T) + b_q m_h^T. The mediators are averages of queries, so the projection of averaged
tokens. Neither queries nor keys need to exist for all tokens. Source: design 3.3.
"""

from __future__ import annotations

from medcli.config import ModelConfig
from medcli.model.layout import blocks


def layer_saving(num_mediators: int, *, num_heads: int, width: int, num_tokens: int) -> int:
    """Return the multiply-adds that absorption saves in one attention layer of one image; negative if it costs more.

    Args:
        num_mediators: Mediators M.
        num_heads: Heads H.
        width: Model width D.
        num_tokens: Tokens N.
    """
    plain = 2 * num_tokens * width**2 + 2 * num_mediators * num_tokens * width
    # Mediators from averaged tokens, their products with two weight matrices, and two score matrices of full width.
    absorbed = 3 * num_mediators * width**2 + 2 * num_heads * num_mediators * num_tokens * width
    return plain - absorbed


def absorbed_saving(config: ModelConfig, *, num_mediators: int | None = None) -> int:
    """Return the multiply-adds of a forward pass of one image that the papers count and sampling skips.

    Subtract them from `medcli.cost.macs.closed_form_macs` for the executed multiply-adds.

    Args:
        num_mediators: A count of the ladder; None the largest, 0 full attention, which has nothing to absorb.

    Raises:
        ConfigError: If the count is not in the ladder.
    """
    count = config.resolve_count(num_mediators)
    if count == 0 or config.rope or config.qk_norm:  # between the weights and the scores, they are not linear
        return 0
    savings = [
        layer_saving(count, num_heads=block.num_heads, width=block.width, num_tokens=block.num_tokens)
        for layer, block in enumerate(blocks(config))
        if layer in config.mediator_layers
    ]
    return sum(max(saving, 0) for saving in savings)

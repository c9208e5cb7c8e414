"""Attention modulation of a sampling run: which blocks, which radius, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medcli.config import ModelConfig
from medcli.cost.macs import closed_form_macs
from medcli.errors import ConfigError
from medcli.ladder import listing
from medcli.model.amm import Amm, amm_multiplications, check_amm
from medcli.presets import amm_blocks, preset_of
from medcli.settings.modulation import ModulationSettings


def choose_amm(request: ModulationSettings, configs: Sequence[ModelConfig]) -> Amm | None:
    """Fill in the blocks of attention modulation and check it against every network of a run.

    Raises:
        ConfigError: If no blocks are known for the network, or it can't be modulated there.
    """
    if request.amm is None:
        return None
    blocks = amm_blocks(configs[0]) if request.amm_blocks is None else request.amm_blocks
    if blocks is None:
        depth = configs[0].depth
        some = sorted({max(0, depth - 4), max(0, depth - 2)})
        raise ConfigError(
            f"no blocks for AMM are published for {preset_of(configs[0]) or 'a network of this size'}",
            hint=f"name some of the later ones, such as --amm-blocks {listing(tuple(some))}",
        )
    amm = Amm(
        blocks=blocks, radius=request.amm if isinstance(request.amm, float) else None, form=request.amm_form or "exp"
    )
    for config in configs:
        check_amm(amm, config)
    return amm


def amm_report(amm: Amm, config: ModelConfig) -> dict[str, Any]:
    """Describe attention modulation and its cost as JSON values. Its products are not among the GMACs."""
    extra = amm_multiplications(amm, config)
    share = 100 * extra / closed_form_macs(config, num_mediators=0)
    return {**amm.to_json(), "multiplications_per_pass": extra, "extra_percent": share, "saving_percent": 0.0}

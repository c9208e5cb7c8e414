"""Values of a model configuration that contradict each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from medcli.config import ModelConfig
from medcli.errors import ConfigError

PLAIN = ModelConfig(family="sit", hidden_size=24, depth=2, num_heads=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "batch"}, "norm is 'batch'"),
        ({"mlp": "relu"}, "mlp is 'relu'"),
        ({"rope": True}, "multiple of 4"),
        ({"family": "mdtv2", "decoder_depth": 0, "qk_norm": True}, "for dit and sit"),
        ({"latent_mean": (0.0,) * 4}, "4 and 0 latent channels"),
        ({"latent_mean": (0.0,) * 3, "latent_std": (1.0,) * 3}, "do not fit a model of 4"),
        ({"latent_mean": (0.0,) * 4, "latent_std": (1.0, 1.0, 0.0, 1.0)}, "positive"),
        ({"latent_mean": (float("nan"),) * 4, "latent_std": (1.0,) * 4}, "finite"),
    ],
)
def test_parts_and_statistics_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(PLAIN, **changes)


def test_parts_survive_json_and_are_left_out_where_there_are_none() -> None:
    config = replace(PLAIN, num_heads=2, norm="rms", mlp="swiglu", rope=True, qk_norm=True, has_shift=False)
    config = replace(config, latent_mean=(0.5,) * 4, latent_std=(2.0,) * 4)
    assert ModelConfig.from_json(config.to_json()) == config
    assert not {"norm", "mlp", "rope", "qk_norm", "has_shift", "latent_mean"} & set(PLAIN.to_json())

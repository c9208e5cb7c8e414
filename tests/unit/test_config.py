"""What settings of models may be."""

from __future__ import annotations

import pytest

from medcli.config import ModelConfig
from medcli.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", 64.5),
        ("depth", None),
        ("learn_sigma", 1),
        ("mediators", 4),
        ("mediators", [4, "16"]),
        ("latent_scale", "0.18215"),
        ("latent_scale", float("nan")),
        ("autoencoder", 3),
        ("family", 1),
    ],
)
def test_a_value_of_another_type_is_named(name: str, value: object) -> None:
    config = ModelConfig(family="sit", hidden_size=64, depth=2, num_heads=4)
    assert ModelConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match=f"{name} is "):
        ModelConfig.from_json({**config.to_json(), name: value})

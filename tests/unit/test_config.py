"""What settings of models and samplers may be."""

from __future__ import annotations

import pytest

from medcli.config import ModelConfig
from medcli.errors import ConfigError
from medcli.sampler_config import SamplerConfig


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--diffusion-norm", {"diffusion_norm": float("nan")}),
        ("--diffusion-norm", {"diffusion_norm": float("inf")}),
        ("--diffusion-norm", {"diffusion_norm": 0.0}),
        ("--last-step-size", {"last_step_size": float("nan")}),
        ("--steps", {"steps": 1}),
        ("--path", {"path": "straight"}),
        ("--solver", {"sampler": "sde", "solver": "rk4"}),
        ("eta", {"eta": 1.5}),
    ],
)
def test_an_impossible_setting_is_named_with_its_value_and_a_way_out(flag: str, values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=flag) as caught:
        SamplerConfig(**values)  # type: ignore[arg-type]
    assert str(list(values.values())[-1]) in caught.value.message
    assert caught.value.hint


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

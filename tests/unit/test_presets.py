import pytest

from medcli.errors import ConfigError
from medcli.presets import (
    auto_layers,
    default_ladder,
    heads_for_width,
    preset_config,
    preset_names,
    preset_of,
)


def test_default_layers_and_ladders() -> None:
    assert auto_layers(28) == (0, 1, 2, 3)
    assert auto_layers(2) == (0, 1)
    assert auto_layers(12) == tuple(range(12))
    assert default_ladder(256) == (4, 16, 64)
    assert default_ladder(64) == (4, 16)
    assert default_ladder(4) == (1,)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_recognised_from_its_architecture_at_any_resolution(name: str) -> None:
    for resolution_px in (256, 512):
        config = preset_config(name, resolution_px=resolution_px)
        assert preset_of(config) == name
        assert config.resolution_px == resolution_px
        # Where tensors do not tell the heads, the width does.
        assert config.has_relative_bias or heads_for_width(config.hidden_size) == config.num_heads


def test_an_unknown_preset_suggests_the_near_one() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'SiT-XXL/2'") as caught:
        preset_config("SiT-XXL/2")
    assert caught.value.hint == "did you mean SiT-XL/2?"


def test_a_width_that_is_no_presets_names_no_heads() -> None:
    assert heads_for_width(96) is None

"""Settings of the sampler: ranges, choices and what a command leaves to the checkpoint."""

from __future__ import annotations

from dataclasses import fields

import pytest

from medcli.errors import ConfigError
from medcli.settings.declare import settings_of
from medcli.settings.sampler import SamplerConfig, SamplerSettings


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
        ("--solver", {"sampler": "ddim", "solver": "heun"}),
        ("--grid", {"grid": "logsnr"}),
        ("--steps", {"steps": 100_001}),
        ("eta", {"eta": 1.5}),
    ],
)
def test_an_impossible_setting_is_named_with_its_value_and_a_way_out(flag: str, values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=flag) as caught:
        SamplerConfig(**values)  # type: ignore[arg-type]
    assert str(list(values.values())[-1]) in caught.value.message
    assert caught.value.hint


def test_a_solver_of_another_sampler_is_refused_with_those_of_this_one() -> None:
    with pytest.raises(ConfigError, match="'rk4' is not for --sampler sde: expected one of euler, heun, exp2, exp3"):
        SamplerConfig(solver="rk4")


def test_commands_offer_each_setting_with_the_range_it_is_declared_with_and_leave_it_open() -> None:
    declared, offered = settings_of(SamplerConfig), settings_of(SamplerSettings)
    assert {*offered, "eta"} == {field.name for field in fields(SamplerConfig)}
    for key, made in offered.items():
        assert made.default is None
        assert (made.help, made.choices, made.minimum, made.above, made.maximum, made.below) == (
            *(declared[key].help, declared[key].choices),
            *(declared[key].minimum, declared[key].above, declared[key].maximum, declared[key].below),
        )
    assert offered["steps"].shown_default == "from the checkpoint, else 250; 20 for ode"

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

import medcli
from medcli.config import ModelConfig
from medcli.data.assets import bundled_model
from medcli.errors import CheckpointError, ConfigError
from medcli.model.backbone import DiffusionTransformer
from medcli.training.calibration import CalibrationConfig, calibrate, output_errors
from medcli.training.calibration_inputs import noise_states
from medcli.training.layer_fit import Layer, NormalEquations, solve_convolution
from tests.unit.training.small_models import EDT_MODEL, LADDER_MODEL, MDT_MODEL, shaken

FEW = CalibrationConfig(num_images=12, held_out=3, num_times=3, steps=15, network_steps=4, batch_size=8)


def converted(model: DiffusionTransformer, ladder: tuple[int, ...], layers: tuple[int, ...]) -> DiffusionTransformer:
    """The model's dense part with a new, neutral ladder, as `medcli convert` writes it."""
    fresh = DiffusionTransformer(dataclasses.replace(model.config, mediators=ladder, mediator_layers=layers)).eval()
    trained = model.state_dict()
    new = {name for name in fresh.state_dict() if ".dwc." in name or name.endswith("_bias")}
    fresh.load_state_dict(
        {name: torch.zeros_like(v) if name in new else trained[name] for name, v in fresh.state_dict().items()}
    )
    return fresh


def fresh_toy(
    ladder: tuple[int, ...] = (1, 4), layers: tuple[int, ...] = (0, 1), **changes: object
) -> DiffusionTransformer:
    """A toy whose attention is sharp and goes by position, which leaves the mediators something to learn."""
    parent = shaken(dataclasses.replace(LADDER_MODEL, **changes))  # type: ignore[arg-type]
    with torch.no_grad():
        parent.pos_embed.mul_(4)
        for block in parent.blocks:
            block.attn.qkv.weight[:32].mul_(2)
    return converted(parent, ladder, layers)


def weights(model: DiffusionTransformer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: DiffusionTransformer, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.slow
def test_calibration_halves_what_a_new_ladder_of_a_trained_model_gets_wrong() -> None:
    """Squared errors, on images that were not fitted to; the full-size figures are in docs/recovery.md."""
    model = converted(medcli.load(bundled_model("digits")), (4, 16), (0, 1))
    config = CalibrationConfig(num_images=16, held_out=4, num_times=4, steps=40, network_steps=8, batch_size=16)
    before = output_errors(model, seed=3, config=config)
    errors = calibrate(model, seed=3, config=config)
    after = output_errors(model, seed=3, config=config)
    assert [(e.layer, e.num_mediators) for e in errors] == [(0, 4), (0, 16), (1, 4), (1, 16)]
    assert all(after[count] < before[count] / 2 for count in (4, 16))
    assert sum(e.after for e in errors) < sum(e.before for e in errors) / 2
    assert all(e.after < 0.7 * e.before for e in errors)


@pytest.mark.parametrize("family", ["sit", "dit"])
def test_only_mediators_change_and_full_attention_stays_the_parent(family: str) -> None:
    model = fresh_toy(family=family)
    before, states = weights(model), noise_states(model, range(4), seed=0, num_times=3)
    inputs = (states.x_RCYX, states.t_R, states.label_R)
    with torch.no_grad():
        parent = model(*inputs, 0)
        calibrate(model, seed=0, config=dataclasses.replace(FEW, steps=40))
        assert torch.equal(model(*inputs, 0), parent)
    expected = {name for name in before if ".dwc." in name or ".ladder." in name}
    # Every map and table moves but those of a lone mediator among queries: one share is always 1.
    unmoved = {name for name in expected if ".ladder.1." in name and name.endswith(("na_bias", "ha_bias", "wa_bias"))}
    assert changed(model, before) == expected - unmoved


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    one, again, other = fresh_toy(), fresh_toy(), fresh_toy()
    assert calibrate(one, seed=0, config=FEW) == calibrate(again, seed=0, config=FEW)
    calibrate(other, seed=1, config=FEW)
    assert changed(again, weights(one)) == set()
    assert changed(other, weights(one)) != set()


def test_it_works_where_no_gradients_are_wanted_and_leaves_none() -> None:
    model, again = fresh_toy().requires_grad_(False), fresh_toy()
    with torch.no_grad():
        calibrate(model, seed=0, config=FEW)
    calibrate(again, seed=0, config=FEW)
    assert changed(model, weights(again)) == set()
    assert all(parameter.grad is None for parameter in (*model.parameters(), *again.parameters()))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.requires_grad for name, parameter in again.named_parameters() if name != "pos_embed")


def test_a_named_part_of_a_ladder_is_fitted_alone() -> None:
    model = fresh_toy()
    before = weights(model)
    names = {name for name in before if name.startswith("blocks.1.attn.ladder.4.")}
    errors = calibrate(model, seed=0, config=FEW, parameters=names)
    assert changed(model, before) == names
    assert [(error.layer, error.num_mediators) for error in errors] == [(1, 4)]


def test_a_single_count_in_upstreams_names_is_fitted() -> None:
    model = fresh_toy(ladder=(4,), layers=(1,))
    before = weights(model)
    (error,) = calibrate(model, seed=0, config=FEW)
    assert (error.layer, error.num_mediators) == (1, 4)
    assert error.after < error.before
    assert {name.rsplit(".", 1)[0] for name in changed(model, before)} == {"blocks.1.attn", "blocks.1.attn.dwc"}


def test_errors_are_shares_of_what_the_dense_layer_adds() -> None:
    """By hand, from what the dense network's own forward pass shows of layer 1 on the held-out images."""
    model = fresh_toy(layers=(1,))
    block, seen = model.blocks[1], dict[str, torch.Tensor]()
    hooks = [
        block.attn.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], full=output)),
        block.adaLN_modulation.register_forward_hook(lambda module, inputs, output: seen.update(shifts=output)),
    ]
    states = noise_states(model, FEW.held_out_images, seed=0, num_times=FEW.num_times)
    with torch.no_grad():
        model(states.x_RCYX, states.t_R, states.label_R, 0)
        for hook in hooks:
            hook.remove()
        gate = seen["shifts"][:, None, 32:48]
        adds = gate * (seen["full"] - block.attn.proj.bias)
        expected = [
            ((gate * (block.attn(seen["x"], count) - seen["full"])).square().sum() / adds.square().sum()).item()
            for count in (1, 4)
        ]
    assert [error.before for error in calibrate(model, seed=0, config=FEW)] == pytest.approx(expected, rel=1e-3)


def test_settling_lowers_the_networks_error_below_what_the_layers_alone_reach() -> None:
    alone, together = fresh_toy(), fresh_toy()
    config = dataclasses.replace(FEW, steps=40)
    calibrate(alone, seed=0, config=dataclasses.replace(config, network_steps=0))
    calibrate(together, seed=0, config=dataclasses.replace(config, network_steps=30))
    before, after = (sum(output_errors(model, seed=0, config=config).values()) for model in (alone, together))
    assert after < 0.9 * before  # 0.94 where the layers alone go on being fitted


def test_output_errors_are_those_of_the_whole_network() -> None:
    model = fresh_toy()
    states = noise_states(model, FEW.held_out_images, seed=0, num_times=FEW.num_times)
    inputs = (states.x_RCYX, states.t_R, states.label_R)
    with torch.no_grad():
        full, one = model(*inputs, 0), model(*inputs, 1)
    errors = output_errors(model, seed=0, config=FEW)
    assert list(errors) == [1, 4]
    assert errors[1] == pytest.approx(((one - full).square().sum() / full.square().sum()).item(), rel=1e-4)


def test_a_shut_gate_and_a_dense_model_have_nothing_to_fit() -> None:
    model = fresh_toy()
    with torch.no_grad():
        for block in model.blocks:
            block.adaLN_modulation[1].weight.zero_()
            block.adaLN_modulation[1].bias.zero_()
    errors = calibrate(model, seed=0, config=FEW)
    assert {(error.before, error.after) for error in errors} == {(0.0, 0.0)}
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert calibrate(fresh_toy(ladder=(), layers=()), seed=0, config=FEW) == ()


def test_a_layer_that_fitting_makes_worse_stays_as_it_was() -> None:
    """Steps on a single state lead away from all others."""
    model = converted(shaken(), (1, 4), (0, 1))
    before = weights(model)
    reckless = CalibrationConfig(num_images=1, held_out=6, num_times=1, steps=30, network_steps=3, batch_size=1)
    errors = calibrate(model, seed=0, config=reckless)
    assert all(error.after == error.before for error in errors)
    assert changed(model, before) == set()


@pytest.mark.parametrize("config", [EDT_MODEL, MDT_MODEL], ids=lambda config: config.family)
def test_families_with_another_stream_are_refused(config: ModelConfig) -> None:
    mediated = dataclasses.replace(config, mediators=(4,), mediator_layers=(0,))
    with pytest.raises(ConfigError, match=f"calibration supports dit and sit models, not {config.family}"):
        calibrate(shaken(mediated), seed=0)


def test_narrow_weights_and_empty_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="float32"):
        calibrate(fresh_toy().double(), seed=0, config=FEW)
    with pytest.raises(ConfigError, match="held_out"):
        CalibrationConfig(held_out=0)


def test_the_convolution_is_the_least_squares_one() -> None:
    """Found by torch's own solver from shifted copies of the values."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(5, 3, 4, 4, generator=generator)
    wanted = torch.randn(5, 3, 16, generator=generator)
    equations = NormalEquations(3, torch.device("cpu"))
    for rows in (slice(0, 2), slice(2, 5)):
        equations.add(value[rows], wanted[rows])
    weight, bias = equations.solve()
    padded = F.pad(value.double(), (1, 1, 1, 1))
    for channel in range(3):
        taps = [padded[:, channel, y : y + 4, x : x + 4].flatten() for y in range(3) for x in range(3)]
        features = torch.stack([*taps, torch.ones_like(taps[0])], dim=1)
        best = torch.linalg.lstsq(features, wanted[:, channel].double().flatten()).solution
        torch.testing.assert_close(
            torch.cat([weight[channel].flatten(), bias[channel : channel + 1]]), best, rtol=1e-4, atol=1e-5
        )


def test_a_convolution_that_was_there_is_found_again() -> None:
    """Mediators that miss exactly a convolution of the values get that convolution, whatever the other counts."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(6, 3, 4, 4, generator=generator)
    weight, bias = torch.randn(3, 1, 3, 3, generator=generator), torch.randn(3, generator=generator)
    equations = NormalEquations(3, torch.device("cpu"))
    equations.add(value, F.conv2d(value, weight, bias, padding=1, groups=3).flatten(2))
    found_weight, found_bias = equations.solve()
    torch.testing.assert_close(found_weight, weight.double(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found_bias, bias.double(), rtol=1e-3, atol=1e-4)


def test_solving_for_the_convolution_lowers_the_miss_of_the_counts_together() -> None:
    model = fresh_toy()
    states = noise_states(model, range(8), seed=0, num_times=3)
    with torch.no_grad():
        x = model.x_embedder(states.x_RCYX) + model.pos_embed
        condition = model.t_embedder(states.t_R) + model.y_embedder(states.label_R)
    block = model.blocks[0]
    layer = Layer(block, block.attn, x, condition)  # type: ignore[arg-type]
    rows = [slice(0, 10), slice(10, 24)]

    def missed() -> float:
        """Before the projection, all counts together."""
        with torch.no_grad():
            reading = layer.read(slice(0, 24))
            inverse = torch.linalg.inv(block.attn.proj.weight)
            parts = [(block.attn(reading.input_BND, count) - reading.full_BND) @ inverse.T for count in (1, 4)]
            return float(sum(part.square().sum() for part in parts))

    before = missed()
    solve_convolution(layer, (1, 4), rows)
    best = missed()
    assert best < before
    for _ in range(3):  # a step in any direction is a step up
        with torch.no_grad():
            nudge = 0.05 * torch.randn(block.attn.dwc.weight.shape, generator=torch.Generator().manual_seed(_))
            block.attn.dwc.weight.add_(nudge)
            assert missed() > best
            block.attn.dwc.weight.sub_(nudge)


@pytest.mark.parametrize("config", [LADDER_MODEL, dataclasses.replace(LADDER_MODEL, family="dit")], ids=["sit", "dit"])
def test_noise_states_are_a_dense_sampling_run_of_each_image(config: ModelConfig) -> None:
    model = shaken(config)
    states = noise_states(model, range(3, 13), seed=0, num_times=4)
    times = states.t_R.view(4, 10)
    expected = [0.0, 0.25, 0.5, 0.75] if config.family == "sit" else [750, 500, 250, 0]
    assert times[:, 0].tolist() == expected
    assert (times == times[:, :1]).all()
    assert torch.equal(states.label_R.view(4, 10)[0], states.label_R.view(4, 10)[3])
    assert (states.label_R.view(4, 10) == config.null_class).nonzero()[:, 1].tolist() == [6] * 4  # image 9
    assert states.label_R.unique().numel() == 4
    x = states.x_RCYX.view(4, 10, 1, 4, 4)
    if config.family == "sit":
        with torch.no_grad():
            velocity = model(x[1], times[1], states.label_R[:10], 0)
        torch.testing.assert_close(x[2], x[1] + 0.25 * velocity)
    alone = noise_states(model, range(5, 6), seed=0, num_times=4)
    torch.testing.assert_close(alone.x_RCYX, x[:, 2], rtol=1e-4, atol=1e-4)
    assert not torch.equal(noise_states(model, range(5, 6), seed=1, num_times=4).x_RCYX, alone.x_RCYX)


def test_equations_are_summed_on_the_cpu_where_the_device_has_no_float64():
    equations = NormalEquations(3, torch.device("mps"))
    assert equations.gram_DJJ.device == equations.moment_DJ.device == torch.device("cpu")


def test_a_network_that_diverges_is_not_fitted() -> None:
    model = shaken(LADDER_MODEL)
    with torch.no_grad():
        model.final_layer.linear.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN or infinite states"):
        calibrate(model, seed=0)

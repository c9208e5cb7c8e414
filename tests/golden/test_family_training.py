"""How EDT was trained, against numbers recorded from the reference (golden-edt/training)."""

import json

import pytest
import torch
from safetensors.torch import load_file

from medcli.diffusion.gaussian import gaussian_tables, respace
from medcli.diffusion.losses import min_snr_weight
from medcli.training.ema import Ema
from medcli.training.learning_rate import linear_decay
from medcli.training.objective import LadderObjective, LossConfig
from medcli.training.optimizers import Adan
from medcli.training.timestep_sampler import LossSecondMomentResampler
from tests.golden.families_support import DATA, network, relative_error, settings_of

FOLDER = DATA / "training"
ADAN = json.loads((FOLDER / "adan.json").read_text())
STATE = ("exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad")


@pytest.mark.parametrize("case", ADAN)
def test_adan_equals_the_reference_at_every_step(case):
    settings, recorded = ADAN[case], load_file(FOLDER / "adan.safetensors")
    # The reference rounds the clipping factor to float32.
    tolerance = {"rtol": 1e-7, "atol": 1e-7} if settings["max_grad_norm"] else {"rtol": 1e-12, "atol": 1e-12}
    parameters = {name: torch.nn.Parameter(recorded[f"{case}.{name}.start"]) for name in "ab"}
    optimizer = Adan(
        parameters.values(),
        settings["lr"],
        tuple(settings["betas"]),
        settings["eps"],
        settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        proximal=not settings.get("no_prox", False),
    )
    for step in range(6):
        for name, parameter in parameters.items():
            parameter.grad = recorded[f"{case}.{name}.grad.{step}"]
        optimizer.step()
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter.detach(), recorded[f"{case}.{name}.{step}"], **tolerance)
    for name, parameter in parameters.items():
        for part in STATE:
            expected = recorded[f"{case}.{name}.state.{part}"]
            torch.testing.assert_close(optimizer.state[parameter][part], expected, **tolerance)


def test_timesteps_are_drawn_with_the_probabilities_of_the_reference():
    recorded = json.loads((FOLDER / "sampler.json").read_text())
    draws = LossSecondMomentResampler(recorded["T"])
    for event, after in zip(recorded["events"], recorded["after_event"], strict=True):
        draws.update(torch.tensor(event["t"]), torch.tensor(event["loss"], dtype=torch.float64))
        expected = torch.tensor(after["p"], dtype=torch.float64)
        torch.testing.assert_close(draws.weights(), expected, rtol=1e-12, atol=1e-15)
    chance_T = draws.weights()
    middles_T = chance_T.cumsum(0) - chance_T / 2
    t_T, weight_T = draws.sample(middles_T)
    assert t_T.tolist() == list(range(recorded["T"]))
    torch.testing.assert_close(weight_T, torch.tensor(recorded["after_event"][-1]["importance"], dtype=torch.float64))


@pytest.mark.parametrize("row", json.loads((FOLDER / "lr.json").read_text())["rows"], ids=lambda row: str(row["step"]))
def test_the_learning_rate_falls_as_in_the_reference(row):
    for script in ("masked_script", "plain_script"):
        if row[script] is not None:
            assert linear_decay(row["init_lr"], row["step"], floor=5e-5, num_steps=400_000) == pytest.approx(
                row[script], rel=1e-12
            )


@pytest.mark.parametrize(("folder", "weights"), [("masked_s", "edt_s"), ("masked_xl", "edt_xl")])
def test_a_masked_step_has_the_losses_and_gradients_of_the_reference(folder, weights):
    io, model = load_file(DATA / folder / "io.safetensors"), network(weights)
    objective = LadderObjective(model, LossConfig(min_snr=5.0))
    masks = {key.removeprefix("keep."): value for key, value in io.items() if key.startswith("keep.")}
    total = torch.zeros(())
    for kind, used in (("full", {}), ("masked", masks)):
        label_B = torch.where(io[f"label_drop_{kind}"], model.config.null_class, io["y"])
        loss_B = objective.losses_at(0, io["x_start"], io[f"noise_{kind}"], io["t"], label_B, used)
        assert relative_error(loss_B.detach(), io[f"{kind}.loss"]) < 1e-5
        total = total + (io["weights"] * loss_B).mean()
    assert float(total.detach()) == pytest.approx(float(io["total_loss"]), rel=1e-5)
    total.backward()
    parameters = dict(model.named_parameters())
    recorded = [key.removeprefix("grad.") for key in io if key.startswith("grad.")]
    assert recorded
    for name in recorded:
        assert relative_error(parameters[name].grad, io[f"grad.{name}"]) < 1e-4, name
    for name, norm in settings_of(folder)["grad_norms"].items():
        assert float(parameters[name].grad.norm()) == pytest.approx(norm, rel=1e-4), name


def test_the_weight_of_min_snr_is_the_reference_s():
    recorded = load_file(FOLDER / "minsnr.safetensors")
    tables = gaussian_tables(respace(""))
    weight_T = min_snr_weight(tables, torch.arange(1000), 5.0)
    torch.testing.assert_close(weight_T, recorded["mse_weight_f64"].float(), rtol=1e-6, atol=0)


def test_the_moving_average_is_the_reference_s():
    recorded = load_file(FOLDER / "ema.safetensors")
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(recorded["start"])
    ema = Ema(model, 0.9999)
    for step in range(4):
        with torch.no_grad():
            model.weight.copy_(recorded[f"param.{step}"])
        ema.update()
        torch.testing.assert_close(ema.shadow["weight"], recorded[f"ema.{step}"], rtol=1e-6, atol=1e-7)

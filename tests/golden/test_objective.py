"""The references' training losses, through the module that training calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medcli.config import ModelConfig
from medcli.training.objective import LadderObjective, LossConfig, native_time
from tests.golden.diffusion_support import settings, tensors


class Recorded(nn.Module):
    """A network that answers with the reference's recorded output and remembers what it was asked."""

    def __init__(self, family: str, output: Tensor) -> None:
        super().__init__()
        self.config = ModelConfig(family=family, hidden_size=16, depth=1, num_heads=2)
        self.output = output
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, label: Tensor, num_mediators: int) -> Tensor:
        self.seen += [x, t]
        return self.output


@pytest.mark.parametrize("weighting", ["None", "velocity", "likelihood"])
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
@pytest.mark.parametrize("path", ["Linear", "GVP", "VP"])
def test_sit_objective_matches_the_reference(path: str, prediction: str, weighting: str) -> None:
    recorded, prefix = tensors("transport/training_losses"), f"{path}.{prediction}.{weighting}"
    output, x0, t = (recorded[f"{prefix}.{name}"] for name in ("pred", "x0", "t"))
    loss = LossConfig(path=path.lower(), prediction=prediction, weighting=weighting.lower())
    objective = LadderObjective(Recorded("sit", output), loss)
    counts = (0,) * len(t)
    expected = recorded[f"{prefix}.loss"]
    torch.testing.assert_close(
        objective(recorded["x1"], x0, t, torch.zeros(len(t)), counts), expected, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        objective.losses_at(0, recorded["x1"], x0, t, torch.zeros(len(t))), expected, rtol=1e-4, atol=1e-5
    )


def test_sit_times_cover_the_references_training_intervals() -> None:
    for name, case in settings("transport/losses_and_likelihood")["losses"].items():
        path, prediction, _ = name.split(".")
        ends = native_time(
            "sit", torch.tensor([0.0, 1.0]).double(), LossConfig(path=path.lower(), prediction=prediction)
        )
        assert ends.tolist() == pytest.approx(case["interval"])


def test_dit_objective_matches_the_reference() -> None:
    g = tensors("diffusion/training_losses")
    model = Recorded("dit", g["model_out"])
    loss = LadderObjective(model)(g["x_start"], g["noise"], g["t"], torch.zeros(len(g["t"])), (0,) * len(g["t"]))
    torch.testing.assert_close(model.seen, [g["x_t"], g["t"]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, g["loss"], rtol=1e-4, atol=1e-6)

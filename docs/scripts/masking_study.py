"""Measure whether the full and the masked loss conflict: `python docs/scripts/masking_study.py DIR`.

Small networks learn the bundled digits with EDT's masking, with MDT's, and with none, five seeds each. Every 20 steps
the two losses are measured on draws no run trains on, and the cosine between their gradients: below 0, a step that
lowers one loss raises the other. DIR gets the states, `losses.json` and `losses.png`; the same command again continues.
The results are in docs/families.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcli.charts.figure import save_png
from medcli.charts.plots import add_legend
from medcli.config import ModelConfig
from medcli.data.bundled_set import bundled_set
from medcli.model.backbone import DiffusionTransformer, empty_model, initialise
from medcli.runtime.files import write_text
from medcli.runtime.reporting import Reporter, Silent
from medcli.training.batches import Batches, TrainBatch
from medcli.training.config import NEVER, TrainConfig
from medcli.training.masking import Masking
from medcli.training.objective import LadderObjective, LossConfig
from medcli.training.train import train

SEEDS = range(5)
Found = Mapping[str, list[list[dict[str, float]]]]
"""Curves by masking and seed: the results of `measured` at each saved step."""
MEASURED_BATCHES = 1
MEASURED_IMAGES = 128
FAR = 10**6
"""First step whose batches are used for measuring; no run trains that long."""
LOSSES, PICTURE = "losses.json", "losses.png"

PIXELS: dict[str, Any] = {
    "patch_size": 1,
    "latent_size": 8,
    "in_channels": 1,
    "num_classes": 10,
    "learn_sigma": False,
    "autoencoder": None,
    "latent_scale": 1.0,
    "latent_downsample": 1,
}
EDT = ModelConfig(
    family="edt",
    hidden_size=32,
    depth=7,
    num_heads=2,
    stage_depths=(2, 1, 1, 1, 2),
    stage_widths=(32, 40, 48, 40, 32),
    stage_heads=(2, 2, 2, 2, 2),
    **PIXELS,
)
MDT = ModelConfig(family="mdtv2", hidden_size=32, depth=6, num_heads=2, decoder_depth=2, **PIXELS)
TRAINING = TrainConfig(
    steps=200,
    global_batch_size=16,
    lr=1e-3,
    ema=0.0,  # losses of the weights as they are
    loss=LossConfig(min_snr=5.0),
    save_every=20,
    keep_last=1,
)


@dataclass(frozen=True, slots=True)
class Way:
    """A network and its masking."""

    title: str
    model: ModelConfig
    masking: Masking
    """Masking of the measured masked loss."""
    is_masked: bool = True
    """True: train with the masking too; False: the control."""


WAYS = (
    Way("EDT, masked in its down-samplers", EDT, Masking()),
    Way("EDT, masked at the input", EDT, Masking(where="input")),
    Way("EDT, not masked", EDT, Masking(), is_masked=False),
    Way("MDTv2, masked at the input", MDT, Masking(where="input")),
)


def study(
    folder: Path,
    reporter: Reporter,
    training: TrainConfig = TRAINING,
    *,
    ways: Sequence[Way] = WAYS,
    seeds: Iterable[int] = SEEDS,
) -> Found:
    """Train every network with every seed and plot the curves.

    Args:
        folder: Output folder.
        reporter: Notified of each run.
        training: Configuration of the runs; seed and masking are replaced.
        ways: Networks and maskings to compare.
        seeds: Seeds of the runs.
    """
    found: dict[str, list[list[dict[str, float]]]] = {way.title: [] for way in ways}
    # Seeds outermost, so that the finished part of an interrupted study can be compared.
    for seed in seeds:
        for number, way in enumerate(ways):
            reporter.note(f"seed {seed}: {way.title}")
            found[way.title].append(_curve(folder / f"way{number}-seed{seed}", way, replace(training, seed=seed)))
    write_text(folder / LOSSES, json.dumps(found) + "\n", force=True)
    draw(folder / PICTURE, found)
    return found


def _curve(folder: Path, way: Way, training: TrainConfig) -> list[dict[str, float]]:
    """Train once, or read the curve an earlier call saved."""
    kept = folder / LOSSES
    if kept.exists():
        curve: list[dict[str, float]] = json.loads(kept.read_text(encoding="utf-8"))
        return curve
    measuring = Batches.of(
        bundled_set("digits"), replace(training, masking=way.masking, global_batch_size=MEASURED_IMAGES), way.model
    )
    batches = [measuring.draw(FAR + step) for step in range(MEASURED_BATCHES)]
    curve = []

    def on_save(step: int, weights: Mapping[str, Tensor]) -> None:
        model = empty_model(way.model)
        model.load_state_dict(dict(weights), assign=True)
        curve.append({"step": step, **measured(model, batches, training.loss)})

    model = DiffusionTransformer(way.model)
    initialise(model, training.seed)
    config = replace(training, masking=way.masking if way.is_masked else None, resume=NEVER)
    train(model, bundled_set("digits"), config, folder, Silent(), on_save=on_save)
    write_text(kept, json.dumps(curve) + "\n", force=True)
    return curve


def measured(model: DiffusionTransformer, batches: list[TrainBatch], loss: LossConfig) -> dict[str, float]:
    """Return the full and masked loss over some batches, and the cosine between their gradients."""
    objective = LadderObjective(model, loss)
    means, gradients = [], []
    for part in range(2):
        model.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            inputs = batch if part == 0 else batch.masked
            assert inputs is not None  # drawn with masking
            value = objective(*inputs[:6]).mean() / len(batches)
            value.backward()
            total += float(value.detach())
        means.append(total)
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    full, masked = gradients
    # Compare only the parameters that both passes use.
    pairs = [(full[name].double().flatten(), masked[name].double().flatten()) for name in full.keys() & masked.keys()]
    product = sum(float(a @ b) for a, b in pairs)
    norms = [sum(float(pair[side] @ pair[side]) for pair in pairs) ** 0.5 for side in range(2)]
    return {"full_loss": means[0], "masked_loss": means[1], "cosine": product / (norms[0] * norms[1])}


def draw(path: Path, found: Found) -> None:
    """Plot losses and cosines over the steps: mean and range over the seeds."""
    panels = {"full_loss": "full loss", "masked_loss": "masked loss", "cosine": "cosine between their gradients"}

    def draw_panels(figure: Any) -> None:
        for axes, (key, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            for number, (way, curves) in enumerate(found.items()):
                if key != "full_loss" and way.endswith("not masked"):
                    continue
                steps = [point["step"] for point in curves[0]]
                values = np.array([[point[key] for point in curve] for curve in curves])
                axes.plot(steps, values.mean(0), color=f"C{number}", label=way)
                axes.fill_between(steps, values.min(0), values.max(0), color=f"C{number}", alpha=0.2, linewidth=0)
            axes.set(xlabel="step", title=title)
            axes.set_yscale("linear" if key == "cosine" else "log")
        add_legend(figure.axes[0])

    save_png(path, draw_panels, title="Training with and without masking", size=(11, 3.8))


class _Printed(Silent):
    """Reporter that prints notes to stderr."""

    def note(self, text: str) -> None:
        """Print the note."""
        sys.stderr.write(text + "\n")

    warn = note


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(Path(sys.argv[1]), _Printed())

"""Train the bundled digits model: `python docs/scripts/digits_model.py DIR`.

It made `medcli/assets/digits-sit.safetensors`. Running it again continues an interrupted run.
`python docs/scripts/digits_model.py header` writes the header of the bundled file again, and keeps its weights.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from medcli.checkpoint.writer import save_checkpoint
from medcli.config import ModelConfig
from medcli.data.assets import MODEL as MODEL_FILE
from medcli.data.assets import asset_path
from medcli.data.bundled_set import bundled_set
from medcli.model.backbone import DiffusionTransformer, initialise
from medcli.runtime.reporting import Reporter, Silent
from medcli.training.config import TrainConfig
from medcli.training.train import train

DIGITS = f"digits{MODEL_FILE}"
LADDER = (1, 4, 16)
DEPTH = 4

MODEL = ModelConfig(
    family="sit",
    hidden_size=96,
    depth=DEPTH,
    num_heads=4,
    patch_size=1,
    latent_size=8,
    in_channels=1,
    num_classes=10,
    learn_sigma=False,
    mediators=LADDER,
    mediator_layers=tuple(range(DEPTH)),
    autoencoder=None,
    latent_scale=1.0,
    latent_downsample=1,
)

# Full attention (0) trains along with the ladder, so that comparing with it is fair.
TRAINING = TrainConfig(
    steps=6000,
    global_batch_size=128,
    lr=1e-3,
    ema=0.999,
    counts=(0, *LADDER),
    ladder_rule="split",
    seed=0,
    save_every=250,
    log_every=50,
)

HEADER_SETTINGS = ("steps", "global_batch_size", "lr", "ema", "grad_clip", "label_dropout", "seed")
"""Settings recorded in the checkpoint's header."""

# Defaults of `medcli sample` for this model: the fewest network calls that keep the FID of 50 (docs/samplers.md), and
# the largest mediator count, whose pictures score best. `for_sampler` holds the defaults of `sde`, which the dynamic
# schedule takes: the `decreasing` noise fades before the data end, so the change per step falls well below a tenth of
# its first size and the dynamic rule has something to detect (docs/schedules.md).
SAMPLING: dict[str, Any] = {
    "sampler": "ode",
    "solver": "adams3",
    "steps": 12,
    "cfg_scale": 1.0,
    "schedule": "static",
    "rho": [0.3, 0.1],
    "for_sampler": {
        "sde": {
            "solver": "euler",
            "steps": 100,
            "diffusion_form": "decreasing",
            "last_step": "mean",
            "last_step_size": 0.004,
        }
    },
}


def train_digits(output_dir: Path, reporter: Reporter) -> Path:
    """Train the model and write its checkpoint; resumes the run in `output_dir`.

    Returns:
        The checkpoint, ready to be copied into `medcli/assets`.
    """
    torch.manual_seed(TRAINING.seed)
    model = DiffusionTransformer(MODEL)
    initialise(model, TRAINING.seed)
    trained = train(model, bundled_set("digits"), TRAINING, output_dir, reporter)
    return write_model(output_dir / DIGITS, trained.ema)


def write_model(target: Path, state: Mapping[str, torch.Tensor]) -> Path:
    """Write weights with the header of the bundled model.

    Args:
        target: The file, replaced if it exists.
        state: The averaged weights.
    """
    history = {
        "data": "digits",
        **{name: getattr(TRAINING, name) for name in HEADER_SETTINGS},
        "entries": TRAINING.counts,
    }
    save_checkpoint(target, MODEL, state, sampling=SAMPLING, reference="digits", training=history, force=True)
    return target


def main(argv: list[str]) -> None:
    """Train in the folder of the first argument, or write the header of the bundled file again."""
    torch.set_num_threads(1)
    if argv[0] == "header":
        bundled = asset_path(DIGITS)
        write_model(bundled, load(bundled.read_bytes()))
    else:
        train_digits(Path(argv[0]), Silent())


if __name__ == "__main__":
    main(sys.argv[1:])

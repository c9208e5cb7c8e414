"""What may be asked of a fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcli.data.digits import DIGITS
from medcli.settings.network import NetworkSource
from medcli.training.config import TrainConfig

DEFAULT_DISTILL = 0.5
"""Share of the squared error that is towards a teacher."""
DEFAULT_PREVIEW_EVERY = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneRequest:
    """What to train, on what, into which folder."""

    training: TrainConfig
    """The run; `counts` and `loss` are filled in from what follows, the model and the checkpoint."""
    network: NetworkSource = NetworkSource()
    """The network to begin with, and its changes."""
    preset: str | None = None
    """A named size to train from scratch, instead of a checkpoint."""
    data: str = DIGITS
    """`digits`, or a path: see `open_training_set`."""
    flip: bool = True
    """Whether half of all draws are mirrored, where the data allows it."""
    vae: str | None = None
    """The autoencoder, a folder or a name; None: the model's own; `none`: pixels, for a model from scratch."""
    output: Path | None = None
    """The run's folder; None: the data's name under `runs`."""
    train: str = "all"
    """`all` or `attention`: see `select`."""
    freeze: tuple[str, ...] = ()
    """Parts that stay as they are."""
    train_dense: bool | None = None
    """Whether full attention is trained beside the mediators; None: with several counts, which share projections."""
    path: str | None = None
    """Interpolant of a SiT model; None: what the checkpoint names, else `linear`."""
    prediction: str | None = None
    """What a SiT model predicts; None: what the checkpoint names, else `velocity`."""
    weighting: str = "none"
    """Weight of noise and score losses over time."""
    min_snr: float | None = None
    """Limit of Min-SNR, 0 for none; None: what the family is trained with."""
    distill: Path | None = None
    """A teacher's checkpoint."""
    distill_weight: float | None = None
    """Share of the squared error that is towards the teacher; None: `DEFAULT_DISTILL`."""
    calibrate: bool = False
    """Whether mediators are fitted to full attention before training."""
    control: bool = False
    """Whether the dense parent is trained as well, to compare with."""
    num_evaluated: int | None = None
    """Images for the losses before and after; None: 512 with a control, else 0, which is none."""
    preview_every: int = DEFAULT_PREVIEW_EVERY
    """Steps between pictures; 0: none."""
    tensorboard: bool = False
    wandb: bool = False
    device: str | None = None
    """None: the best there is."""
    command: str | None = None
    """The command line, for the record."""

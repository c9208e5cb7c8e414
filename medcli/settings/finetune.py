"""Settings of `finetune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medcli.presets import DEFAULT_BUNDLE
from medcli.settings.declare import INPUT, LADDER, LOGGING, LOSS, OUTPUT, TRAINING, Needs, count_setting, group, setting
from medcli.settings.fresh import FreshNetwork
from medcli.settings.machine import DEVICE, output_setting
from medcli.settings.network import NetworkSource, name_setting
from medcli.settings.parsers import parse_float
from medcli.settings.sampler import PathName, PredictionName
from medcli.settings.sampling import MAX_IMAGES
from medcli.settings.training import MAX_STEPS, MaskPlace, Range, TrainingSettings, Weighting

CALIBRATES = Needs("calibrate", words="--calibrate")
SELF = "self"
"""Value of `--data` for images that the dense parent draws."""


def parse_range(text: str) -> Range:
    """Parse `0.4-0.5`."""
    low, high = text.split("-")
    return parse_float(low), parse_float(high)


def parse_ranges(text: str) -> tuple[Range, ...]:
    """Parse `0.4-0.5,0.1-0.2`."""
    return tuple(parse_range(part) for part in text.split(","))


def parse_mid(text: str) -> Range | Literal["none"]:
    """Parse a range, or `none`."""
    return "none" if text == "none" else parse_range(text)


def format_ranges(value: tuple[Range, ...]) -> str:
    """Format ranges as `parse_ranges` reads them."""
    return ",".join(map(format_mid, value))


def format_mid(value: Range | str) -> str:
    """Format a range as `parse_mid` reads it."""
    return value if isinstance(value, str) else f"{value[0]!r}-{value[1]!r}"


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest:
    """A training run: network, data, loss and output."""

    network: NetworkSource = group(
        NetworkSource,
        heads={"short": False},
        num_classes={"default_text": "the checkpoint's, else the data's"},
        res={"short": False},
    )
    """The network to begin with, and its changes."""
    data: str | None = name_setting(
        None,
        help="Folder of images (a sub-folder per class, or a file of labels), latents, a bundled set, or self: images "
        "that the checkpoint draws.",
        panel=INPUT,
        metavar="PATH|NAME",
        default_text=f"the bundled set that the checkpoint names, else one that fits it, {DEFAULT_BUNDLE} first",
        short=True,
    )
    """None: chosen once the checkpoint is open."""
    num_images: int | None = count_setting(
        None,
        MAX_IMAGES,
        help="Number of images that the checkpoint draws, by full attention; it also becomes the teacher.",
        panel=INPUT,
        needs=Needs("data", (SELF,), words=f"--data {SELF}"),
        default_text="10000",
    )
    fresh: FreshNetwork = group(FreshNetwork)
    """A network from scratch, instead of a checkpoint."""
    vae: str | None = name_setting(
        None,
        help="Autoencoder, a folder or a cached hub name; none: a preset for pixels.",
        panel=INPUT,
        metavar="NAME|PATH|none",
        default_text="the checkpoint's",
    )
    flip: bool = setting(True, help="Mirror images at random; bundled ones never are.", panel=INPUT, negatable=True)
    training: TrainingSettings = group(TrainingSettings)
    epochs: float | None = setting(
        None,
        help="Passes over the data, instead of --steps.",
        panel=TRAINING,
        metavar="N",
        above=0,
        maximum=MAX_STEPS,
        default_text="",
        example="10",
        short=True,
    )
    train: Literal["all", "attention"] = setting(
        "all",
        help="Train everything, or only the attention of the blocks with mediators.",
        panel=TRAINING,
        short=True,
    )
    freeze: tuple[str, ...] = setting(
        (),
        default_text="",
        help="Parts to freeze, such as blocks.0 or y_embedder.",
        panel=TRAINING,
        metavar="NAME,...",
        example="blocks.0",
    )
    train_dense: bool | None = setting(
        None,
        help="Also train full attention.",
        panel=LADDER,
        negatable=True,
        default_text="on for several counts",
    )
    """Several counts share projections, and full attention keeps them near the parent's."""
    calibrate: bool = setting(
        False, help="First fit the mediators to full attention, without data.", panel=LADDER, short=True
    )
    calibration_images: int = count_setting(
        16,
        MAX_IMAGES,
        help="Number of images drawn from noise that mediators are fitted on.",
        panel=LADDER,
        needs=CALIBRATES,
    )
    calibration_steps: int = count_setting(
        20, MAX_STEPS, help="Number of steps on each layer alone.", panel=LADDER, needs=CALIBRATES
    )
    calibration_network_steps: int = count_setting(
        12,
        MAX_STEPS,
        help="Number of steps on all layers together; 0: none.",
        panel=LADDER,
        minimum=0,
        needs=CALIBRATES,
    )
    distill: Path | None = setting(
        None,
        default_text="",
        help="Learn from this checkpoint's full attention as well as from the data.",
        panel=LADDER,
        metavar="TEACHER",
    )
    distill_weight: float | None = setting(
        None,
        help="Weight of the teacher in the loss, in (0, 1].",
        panel=LADDER,
        metavar="W",
        above=0,
        maximum=1,
        needs=Needs("distill", words="--distill TEACHER"),
        default_text="0.5",
    )
    control: bool = setting(
        False,
        help="Also train with full attention alone for as many steps, and compare the losses.",
        panel=LADDER,
    )
    num_evaluated: int | None = count_setting(
        None,
        MAX_IMAGES,
        key="eval_images",
        help="Number of images for the loss of each count before and after.",
        panel=LADDER,
        minimum=0,
        default_text="512 with --control, else 0",
    )
    path: PathName | None = setting(
        None,
        help="Interpolant of a SiT model.",
        panel=LOSS,
        default_text="from the checkpoint, else linear",
    )
    prediction: PredictionName | None = setting(
        None,
        help="Output of a SiT network.",
        panel=LOSS,
        default_text="from the checkpoint, else velocity",
    )
    weighting: Weighting | None = setting(
        None,
        key="loss_weight",
        help="Weight over time of SiT's noise and score losses.",
        panel=LOSS,
        default_text="from the checkpoint, else none",
    )
    min_snr: float | None = setting(
        None,
        help="Min-SNR limit: steps with little noise count less; 0 weights all alike.",
        panel=LOSS,
        metavar="G",
        minimum=0,
        default_text="5 for EDT and MDTv2, else 0",
        example="5",
    )
    mask: MaskPlace | None = setting(
        None,
        help="Add a masked pass: inside EDT's down-samplers, or at the input as MDT does.",
        panel=LOSS,
        default_text="",
    )
    mask_ratios: tuple[Range, ...] | None = setting(
        None,
        help="Ranges of the mask ratio, drawn for each step: one per down-sampler, the last for the rest too.",
        panel=LOSS,
        metavar="LO-HI,...",
        parse=parse_ranges,
        format=format_ranges,
        expects="ranges LO-HI",
        needs=Needs("mask", words="--mask down, or --mask input"),
        default_text="0.4-0.5,0.1-0.2; 0.3-0.5 for the input",
        example="0.4-0.5",
    )
    mask_mid: Range | Literal["none"] | None = setting(
        None,
        help="The same inside a first stage of five blocks or more (EDT-XL).",
        panel=LOSS,
        metavar="LO-HI|none",
        parse=parse_mid,
        format=format_mid,
        expects="LO-HI or none",
        needs=(Needs("mask", words="--mask down"), Needs("mask", ("down",), words="--mask down")),
        default_text="0.15-0.25",
        example="0.15-0.25",
    )
    device: str | None = setting(None, **DEVICE)
    preview_every: int = count_setting(
        1000,
        MAX_STEPS,
        help="Number of steps between previews, drawn with the next training checkpoint and at the end; 0: none.",
        panel=LOGGING,
        minimum=0,
    )
    tensorboard: bool = setting(False, help="Also write TensorBoard event files.", panel=LOGGING)
    wandb: bool = setting(False, help="Also log to Weights & Biases.", panel=LOGGING)
    output: Path | None = output_setting(metavar="DIR", help="Folder of the run.", default_text="runs/<data>")
    dry_run: bool = setting(
        False,
        help="Show the plan and its cost; write nothing.",
        panel=OUTPUT,
        letter="-n",
        short=True,
    )

    @property
    def data_name(self) -> str:
        """Path or name of the data, of a request where it has been chosen."""
        assert self.data is not None
        return self.data

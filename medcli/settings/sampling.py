"""Settings of `sample`, shared with `analyze`, `tune` and `flops`: schedule, sampler, guidance, labels, modulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medcli.settings.declare import (
    INPUT,
    MACHINE,
    OUTPUT,
    SAMPLING,
    SCHEDULE,
    Needs,
    count_setting,
    group,
    setting,
    settings_of,
)
from medcli.settings.machine import MachineSettings, output_setting, seed_setting
from medcli.settings.modulation import ModulationSettings
from medcli.settings.network import NetworkSource, name_setting
from medcli.settings.parsers import parse_count, parse_int
from medcli.settings.sampler import IN_CHECKPOINT, MAX_STEPS, SamplerSettings

ScheduleKind = Literal["full", "static", "dynamic", "timed"]
DistanceName = Literal["l1", "l2"]
LabelSampling = Literal["equal", "random"]

MAX_IMAGES = 10**8
DEFAULT_WARMUP_STEPS = 3
"""The papers' published command uses 3 (reference-facts 4)."""
DYNAMIC = Needs("schedule", ("dynamic",), words="--schedule dynamic")
TIMED = Needs("schedule", ("timed",), words="--schedule timed")
GUIDED = Needs("cfg_scale", unless=(1.0,), words="a --cfg-scale other than 1")


def parse_counts(text: str) -> tuple[int, ...]:
    """Parse `4,16,full`."""
    return tuple(parse_count(part) for part in text.split(","))


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Mediator counts of an image and when it moves from one to the next."""

    schedule: ScheduleKind | None = setting(
        None,
        help="Full attention, one mediator count, or a count that rises by an image's change or by progress.",
        panel=SCHEDULE,
        default_text="from the checkpoint, else static",
        short=True,
    )
    mediators: tuple[int, ...] | None = setting(
        None,
        help="Mediator counts: rising perfect squares such as 4,16,64, which full attention may end; one for static.",
        panel=SCHEDULE,
        metavar="N,...[,full]",
        parse=parse_counts,
        expects="comma-separated whole numbers, or full at the end",
        default_text="the checkpoint's",
        example="4,16,64",
        short=True,
    )
    at: tuple[float, ...] | None = setting(
        None,
        default_text="",
        help="Shares of the steps at which the second and later mediator counts of the timed schedule start.",
        panel=SCHEDULE,
        metavar="P,...",
        needs=TIMED,
        above=0,
        below=1,
        example="0.3,0.6",
        short=True,
    )
    rho: tuple[float, ...] | None = setting(
        None,
        help="Falling thresholds of the dynamic schedule, one fewer than mediator counts.",
        panel=SCHEDULE,
        metavar="R,...",
        needs=DYNAMIC,
        default_text="from the checkpoint, else for three counts by the noise of the steps",
        example="0.3,0.1",
        short=True,
    )
    warmup_steps: int | None = count_setting(
        None,
        MAX_STEPS,
        help="Number of first distances averaged into the dynamic schedule's baseline.",
        panel=SCHEDULE,
        needs=DYNAMIC,
        default_text=IN_CHECKPOINT.format(DEFAULT_WARMUP_STEPS),
    )
    distance: DistanceName | None = setting(
        None,
        help="Distance between the states of two steps in the dynamic schedule.",
        panel=SCHEDULE,
        needs=DYNAMIC,
        default_text=IN_CHECKPOINT.format("l1"),
    )


@dataclass(frozen=True, kw_only=True)
class GuidanceSettings:
    """Classifier-free guidance."""

    cfg_scale: float | None = setting(
        None,
        help="Classifier-free guidance scale; 1 is off.",
        panel=SAMPLING,
        metavar="W",
        minimum=0,
        default_text="from the checkpoint, else the family's",
        example="1.5",
        short=True,
    )
    cfg_channels: Literal["3", "all"] | None = setting(
        None,
        help="Latent channels guidance acts on.",
        panel=SAMPLING,
        needs=GUIDED,
        default_text="from the checkpoint, else 3; all for pixels",
    )
    cfg_interval: tuple[float, float] | None = setting(
        None,
        help="Guide only steps that start at times LO <= t < HI of the path, 0 noise to 1 data; others skip the "
        "unconditional pass.",
        panel=SAMPLING,
        metavar="LO,HI",
        needs=GUIDED,
        default_text="0,1",
        example="0.2,0.8",
    )
    cfg_power: float | None = setting(
        None,
        help="Power of the guidance schedule; 0 is constant.",
        panel=SAMPLING,
        metavar="P",
        minimum=0,
        needs=GUIDED,
        default_text="4 for MDTv2, else 0",
        example="4",
    )


PLANNED = frozenset(key for cls in (ScheduleSettings, SamplerSettings, GuidanceSettings) for key in settings_of(cls))
"""Settings that a plan file decides."""


def parse_classes(text: str) -> tuple[int | str, ...] | None:
    """Parse `3,samoyed,8`; None for `all`.

    Raises:
        ValueError: If a part is empty, or a number of another form than `parse_int` reads.
    """
    return None if text == "all" else tuple(_class_of(part.strip()) for part in text.split(","))


def _class_of(word: str) -> int | str:
    return word if any(letter.isalpha() for letter in word) else parse_int(word)


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """Class labels and noise."""

    classes: tuple[int | str, ...] | None = setting(
        None,
        help="Class labels, or names that the model has, taken in turn.",
        panel=SAMPLING,
        metavar="C,...|all",
        parse=parse_classes,
        expects="all, or comma-separated whole numbers or names",
        default_text="all",
        example="1,2,3",
        short=True,
    )
    label_sampling: LabelSampling = setting(
        "equal", help="Cycle through the classes (equal) or draw them at random.", panel=SAMPLING
    )
    seed: int = seed_setting(SAMPLING)


def parse_shard(text: str) -> tuple[int, int]:
    """Parse `I/N`; shards 0 and N are the same, so that I may count from 0 or from 1.

    Raises:
        ValueError: If it is none, or I is beyond N.
    """
    number, count = map(parse_int, text.split("/"))
    if not 0 <= number <= count <= MAX_IMAGES or count < 1:
        raise ValueError(text)
    return number % count, count


def checked_shard(text: str) -> str:
    """Check `I/N` and return it; errors as of `parse_shard`."""
    parse_shard(text)
    return text


@dataclass(frozen=True, kw_only=True)
class SampleRequest(
    ScheduleSettings, LabelSettings, SamplerSettings, GuidanceSettings, ModulationSettings, MachineSettings
):
    """Images to generate. None: the checkpoint's default, else the family's."""

    network: NetworkSource = group(NetworkSource, only=("checkpoint", "download", "family", "heads", "weights"))
    """The network; without a checkpoint the bundled one."""
    stages: Mapping[int, Path] | None = setting(
        None,
        key="stage",
        default_text="",
        help="A checkpoint trained for N mediators, instead of CHECKPOINT; once for each.",
        panel=INPUT,
        metavar="N|full=PATH",
        example="4=a.safetensors",
    )
    vae: str | None = name_setting(
        None,
        help="Autoencoder of the latents: a diffusers folder, or a hub name already in the cache.",
        panel=INPUT,
        default_text="the checkpoint's",
    )
    plan: Path | None = setting(
        None,
        default_text="",
        help="Plan file: times, solver rows, networks and guidance of each step, from --save-plan or tune.",
        panel=SAMPLING,
        metavar="FILE",
        short=True,
    )
    dry_run: bool = setting(
        False,
        help="Show the run, its cost, time and disk space; write nothing.",
        panel=OUTPUT,
        letter="-n",
        decides=False,
        short=True,
    )
    save_plan: Path | None = setting(
        None, default_text="", help="Also write the run's plan file.", panel=OUTPUT, metavar="FILE", decides=False
    )
    num_images: int = count_setting(
        16, MAX_IMAGES, help="Total images in the output folder.", panel=SAMPLING, short=True, decides=False
    )
    compiled: bool = setting(
        False,
        key="compile",
        help="Use torch.compile, one graph per mediator count (slow first steps).",
        panel=MACHINE,
        decides=False,
    )
    shard: str | None = setting(
        None,
        default_text="",
        help="Generate only part I of N, I from 0 or from 1: for job arrays. Each part may have a folder of its own; "
        "merge joins them.",
        panel=MACHINE,
        metavar="I/N",
        parse=checked_shard,
        expects="I/N with I from 0 to N",
        example="1/8",
        decides=False,
    )
    output: Path | None = output_setting(
        metavar="DIR", help="Output folder.", default_text="samples/<checkpoint>-<schedule>-<seed>"
    )
    npz: bool = setting(False, help="Also write samples.npz, for scoring suites.", panel=OUTPUT, decides=False)
    latents: bool = setting(
        False,
        help="Also write latents/: final latents and labels, which finetune --data reads.",
        panel=OUTPUT,
        decides=False,
    )

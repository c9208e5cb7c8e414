"""Settings of `flops` and `bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcli.settings.declare import MACHINE, MODEL, SAMPLING, SCHEDULE, TIMING, count_setting, group, setting
from medcli.settings.machine import MachineSettings
from medcli.settings.network import MAX_RES, NetworkSource
from medcli.settings.parsers import parse_path
from medcli.settings.sampling import MAX_IMAGES, SampleRequest, parse_counts

OF_AN_IMAGE = ("schedule", "at", "rho", "warmup_steps", "sampler", "solver", "steps", "cfg_scale", "cfg_interval")
"""Settings of `sample` that decide what an image costs."""
MAX_THREADS = 4096
MAX_REPEATS = 10**6


def parse_rungs(text: str) -> tuple[int, ...]:
    """Parse `4,16,full`; `none` is an empty ladder."""
    return () if text == "none" else parse_counts(text)


def parse_paths(text: str) -> tuple[Path, ...]:
    """Parse `a.json,b.json`."""
    return tuple(map(parse_path, text.split(",")))


@dataclass(frozen=True, kw_only=True)
class FlopsRequest:
    """Networks to count. Any of the settings of an image asks for the cost of whole images too."""

    models: tuple[str, ...] = setting(
        (),
        help="Checkpoints, or presets such as DiT-B/4, side by side.",
        metavar="MODEL",
        positional=True,
        default_text="SiT-XL/2",
    )
    """Empty: the checkpoint of the run `manifest` names, else SiT-XL/2."""
    network: NetworkSource = group(
        NetworkSource,
        only=("family", "heads", "mediators", "layers"),
        weights={"default": None},
        mediators={"default_text": "the checkpoint's or the run's, else 4,16,64"},
        layers={"default_text": "the checkpoint's, else all"},
    )
    """Hints and changes for every model; `mediators` are the counts to compare."""
    resolutions_px: tuple[int, ...] = count_setting(
        (),
        MAX_RES,
        key="res",
        help="Sides of the square image in pixels.",
        panel=MODEL,
        metavar="PX,...",
        default_text="the model's",
        example="256,512",
        short=True,
    )
    qk_ratios: tuple[float, ...] = setting(
        (),
        key="qk_ratio",
        default_text="",
        help="Also count narrower queries and keys, as shares of the width.",
        panel=MODEL,
        metavar="R,...",
        example="0.5",
        short=True,
    )
    sampling: SampleRequest = group(
        SampleRequest,
        only=OF_AN_IMAGE,
        schedule={"default_text": "full and static; dynamic with --rho, timed with --at"},
        at={"short": False},
        warmup_steps={"short": True},
    )
    """Sampling settings of an image; `schedule` static is each count by itself."""
    manifest: Path | None = setting(
        None,
        default_text="",
        help="A sample folder: report the cost of its images, from their moves along the ladder.",
        panel=SCHEDULE,
        metavar="PATH",
        short=True,
    )

    def planned(self) -> dict[str, Any]:
        """Return the settings of an image that are given."""
        values = {name: getattr(self.sampling, name) for name in OF_AN_IMAGE}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class BenchSettings(MachineSettings):
    """Network, number format and timing of a measurement."""

    network: NetworkSource = group(
        NetworkSource,
        only=("checkpoint", "family", "heads", "res", "mediators", "layers"),
        weights={"default": None},
        checkpoint={
            "metavar": "MODEL",
            "help": "A checkpoint, or a preset such as SiT-XL/2 with random weights.",
            "default_text": "SiT-S/2",
        },
        mediators={
            "default_text": "the checkpoint's, else 4,16,64",
            "metavar": "N,...[,full]|none",
            "parse": parse_rungs,
            "expects": "comma-separated whole numbers, full at the end, or none",
        },
        layers={"default_text": "the checkpoint's, else all"},
    )
    """A network without mediators gets the default ladder, in every block; a 0 at the end belongs to the schedule."""
    compiled: bool = setting(
        False,
        key="compile",
        help="Use torch.compile, one graph per mediator count (slow first steps).",
        panel=MACHINE,
        short=True,
    )
    num_threads: int | None = count_setting(
        None,
        MAX_THREADS,
        key="threads",
        help="Number of CPU threads; with 1, CPU time is measured, which other programs hardly affect.",
        panel=MACHINE,
        default_text="torch's",
        short=True,
    )
    repeats: int = count_setting(3, MAX_REPEATS, help="Number of timed rounds.", panel=TIMING, short=True)


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """A measurement of network calls, and of sampling runs beside the papers' 250 steps."""

    settings: BenchSettings = group(BenchSettings)
    sampling: SampleRequest = group(
        SampleRequest,
        only=(
            *("schedule", "at", "rho", "warmup_steps", "distance"),
            *("sampler", "solver", "grid", "steps", "time_shift", "cfg_scale", "cfg_interval"),
        ),
        schedule={"default_text": "from the checkpoint, else timed"},
        at={"short": False},
        rho={"short": False},
        steps={
            "minimum": 0,
            "help": "Number of solver steps of the sampling runs; network calls for adams, exp and multistep solvers. "
            "0: time network calls only.",
            "default_text": "from the checkpoint, else 12",
        },
        sampler={"default_text": "from the checkpoint, else ode or ddim"},
        cfg_scale={"default_text": "from the checkpoint, else 1"},
    )
    """Settings of the sampling runs."""
    plans: tuple[Path, ...] = setting(
        (),
        key="plan",
        default_text="",
        help="Plan files of sample or tune to time, instead of settings.",
        panel=SAMPLING,
        metavar="FILE,...",
        parse=parse_paths,
        expects="comma-separated paths",
        short=True,
    )
    num_images: int | None = count_setting(
        None, MAX_IMAGES, help="Number of images of a sampling run.", panel=SAMPLING, default_text="one batch"
    )

"""Settings of `analyze` and `tune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medcli.settings.declare import ANALYSIS, BUDGET, SEARCH, Needs, group, setting
from medcli.settings.machine import force_setting, output_setting
from medcli.settings.sampler import MAX_STEPS
from medcli.settings.sampling import DEFAULT_WARMUP_STEPS, MAX_IMAGES, SampleRequest
from medcli.settings.values import parse_float

NOT_SHARED = ("schedule", "mediators", "rho", "stage", "cfg_power", "amm", "amm_blocks", "amm_form", "compile", "npz")
"""Settings of `sample` that the other commands fix themselves."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeRequest:
    """Redundancy of attention to measure, and thresholds to try."""

    sampling: SampleRequest = group(
        SampleRequest,
        omit=(*NOT_SHARED, "warmup_steps", "distance", "vae", "output"),
        schedule={"default": "full"},
        num_images={"default": 32, "minimum": 2, "help": "Number of images."},
    )
    """Sampling settings; the schedule is full attention."""
    points: int = setting(
        20,
        help="Number of solver steps at which attention is scored, evenly spaced.",
        panel=ANALYSIS,
        metavar="N",
        minimum=1,
        maximum=MAX_STEPS,
        short=True,
    )
    pairs: int = setting(
        256 * 255 // 2,
        help="Number of query pairs compared in each head; the default is all pairs of 256 tokens.",
        panel=ANALYSIS,
        metavar="N",
        minimum=1,
        maximum=2**31,
    )
    """Beyond the default, a score costs no more per query and key than there."""
    attention: bool = setting(
        True,
        help="Score attention, or only the change of the latents.",
        panel=ANALYSIS,
        negatable=True,
        short=True,
    )
    """Scoring can cost more than the images."""
    rho: tuple[float, ...] = setting(
        (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
        help="Thresholds to try.",
        panel=ANALYSIS,
        metavar="R,...",
        above=0,
        default_text="0.9 to 0.05",
        example="0.5,0.3,0.1",
        short=True,
    )
    warmup_steps: int = setting(
        DEFAULT_WARMUP_STEPS,
        help="Number of first distances averaged into the thresholds' baseline.",
        panel=ANALYSIS,
        metavar="N",
        minimum=1,
        maximum=MAX_STEPS,
    )
    output: Path | None = output_setting(
        metavar="DIR", help="Output folder.", default_text="analysis/<checkpoint>-<seed>"
    )
    force: bool = force_setting()


def parse_percent(text: str) -> float:
    """Parse `20%` or `20`."""
    return parse_float(text.strip().removesuffix("%"))


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """Budget, choices and how images are generated."""

    sampling: SampleRequest = group(
        SampleRequest,
        omit=(*NOT_SHARED, "output"),
        num_images={"default": 64, "minimum": 2, "panel": SEARCH, "help": "Number of images of each finalist."},
        steps={"short": False},
        classes={"short": False},
        solver={"short": False},
    )
    """The schedule is what is searched; its `num_images` are generated for each finalist."""
    gmacs: float | None = setting(
        None,
        help="Budget: GMACs of an image, as the papers count.",
        panel=BUDGET,
        metavar="X",
        above=0,
        example="2.95",
        short=True,
    )
    ms: float | None = setting(
        None,
        help="Budget: milliseconds of an image, network calls timed on this machine.",
        panel=BUDGET,
        metavar="X",
        above=0,
        example="40",
        short=True,
    )
    saving: float | None = setting(
        None,
        help="Budget: share of the dense GMACs to save.",
        panel=BUDGET,
        metavar="P%",
        parse=parse_percent,
        expects="a percentage",
        above=0,
        below=100,
        example="20%",
        short=True,
    )
    metric: Literal["error", "fid"] = setting(
        "error", help="Judge by the distance from the dense images, or by FID.", panel=SEARCH, short=True
    )
    reference: str | None = setting(
        None,
        help="Reference of FID.",
        panel=SEARCH,
        metavar="NAME|PATH",
        needs=Needs("metric", ("fid",), words="--metric fid"),
        default_text="the checkpoint's",
        short=True,
    )
    layers: str | None = setting(
        None,
        help="Blocks that may get mediators: 0-3, 0,2,5, all or auto.",
        panel=SEARCH,
        metavar="WHICH",
        default_text="the checkpoint's, all of a dense one",
        example="0-3",
        short=True,
    )
    mediators: tuple[int, ...] | None = setting(
        None,
        help="Mediator counts to build ladders from.",
        panel=SEARCH,
        metavar="N,...",
        default_text="the checkpoint's, else 4,16,64",
        example="4,16,64",
        short=True,
    )
    calibrate: bool = setting(
        False, help="Fit the mediators of a dense checkpoint to its full attention first.", panel=SEARCH
    )
    num_finalists: int = setting(
        24, key="finalists", help="Number of configurations that are run.", panel=SEARCH, metavar="N", minimum=4,
        maximum=MAX_IMAGES,
    )  # fmt: skip
    output: Path = output_setting(Path("tuning"), metavar="DIR", help="Output folder; another budget reuses it.")
    num_recorded: int = 16
    """Number of images whose trajectories under full attention are recorded for replays."""

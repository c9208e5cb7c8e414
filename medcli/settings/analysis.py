"""Settings of `analyze` and `tune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medcli.settings.declare import ANALYSIS, BUDGET, SEARCH, Needs, count_setting, group, setting
from medcli.settings.machine import force_setting, output_setting
from medcli.settings.network import name_setting, parse_mediators
from medcli.settings.parsers import parse_float
from medcli.settings.sampler import ADAPTIVE_SOLVERS, MAX_STEPS, MULTISTEP_ORDERS, SOLVERS
from medcli.settings.sampling import DEFAULT_WARMUP_STEPS, MAX_IMAGES, SampleRequest
from medcli.settings.scoring import FeatureOptions

NOT_SHARED = (
    *("schedule", "mediators", "at", "rho", "stage", "plan", "save_plan", "cfg_power", "compile", "npz", "output"),
    *("amm", "amm_blocks", "amm_form", "warmup_steps", "distance", "latents", "shard", "dry_run"),
)
"""Settings of `sample` that the other commands fix themselves."""
TUNED = ("grid", "time_shift", "diffusion_form", "diffusion_norm", "last_step", "last_step_size", "cfg_interval")
"""Settings that `tune` chooses or takes from the checkpoint."""
FIXED_SOLVERS = tuple(
    dict.fromkeys(name for names in SOLVERS.values() for name in names if name not in ADAPTIVE_SOLVERS)
)
FITTED = Needs("sampler", ("ode", "ddim"), words="--sampler ode or ddim")
MULTISTEP = Needs("solver", tuple(MULTISTEP_ORDERS), words="multistep solvers, such as --solver adams3")
SCORED = Needs("metric", ("auto", "fid"), words="--metric auto or fid")


@dataclass(frozen=True, kw_only=True)
class AnalyzeRequest:
    """Redundancy of attention to measure, and thresholds to try."""

    sampling: SampleRequest = group(
        SampleRequest,
        omit=(*NOT_SHARED, "vae"),
        schedule={"default": "full"},
        num_images={"default": 32, "minimum": 2, "help": "Number of images."},
    )
    """Sampling settings; the schedule is full attention."""
    points: int = count_setting(
        20,
        MAX_STEPS,
        help="Number of solver steps at which attention is scored, evenly spaced.",
        panel=ANALYSIS,
        short=True,
    )
    pairs: int = count_setting(
        256 * 255 // 2,
        2**31,
        help="Number of query pairs compared in each head; the default is all pairs of 256 tokens.",
        panel=ANALYSIS,
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
    warmup_steps: int = count_setting(
        DEFAULT_WARMUP_STEPS,
        MAX_STEPS,
        help="Number of first distances averaged into the thresholds' baseline.",
        panel=ANALYSIS,
    )
    output: Path | None = output_setting(
        metavar="DIR", help="Output folder.", default_text="analysis/<checkpoint>-<seed>"
    )
    force: bool = force_setting()


def parse_saving(text: str) -> float:
    """Parse `90%`, `90` or `0.9` as a share; numbers from 1 on are percent."""
    number = text.strip()
    value = parse_float(number.removesuffix("%"))
    return value / 100 if number.endswith("%") or value >= 1 else value


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """Budget, choices and how images are generated."""

    sampling: SampleRequest = group(
        SampleRequest,
        omit=(*NOT_SHARED, *TUNED),
        num_images={"minimum": 2, "panel": SEARCH, "help": "Number of images of each candidate."},
        classes={"short": False},
        sampler={"panel": SEARCH, "default_text": "ode, ddim for the other families", "short": False},
        solver={
            "panel": SEARCH,
            "help": "Solver of the candidates.",
            "choices": FIXED_SOLVERS,
            "default_text": "adams3 for ode, multistep2 for ddim, else the checkpoint's",
            "short": False,
        },
        steps={
            "panel": SEARCH,
            "help": "Number of solver steps of every candidate.",
            "default_text": "several are tried",
            "short": False,
        },
    )
    """Schedule, calls and guidance interval are what is chosen."""
    saving: float | None = setting(
        None,
        default_text="",
        help="Budget: share of the GMACs of 250 dense steps to save.",
        panel=BUDGET,
        metavar="P%",
        parse=parse_saving,
        format=repr,
        expects="a percentage",
        above=0,
        below=1,
        example="90%",
        short=True,
    )
    gmacs: float | None = setting(
        None,
        default_text="",
        help="Budget: GMACs of an image, as the papers count.",
        panel=BUDGET,
        metavar="X",
        above=0,
        example="0.5",
        short=True,
    )
    calls: int | None = count_setting(
        None,
        MAX_STEPS,
        default_text="",
        help="Budget: network calls of an image.",
        panel=BUDGET,
        minimum=2,
        example="12",
        short=True,
    )
    seconds: float | None = setting(
        None,
        default_text="",
        help="Budget: seconds of an image, measured on this machine at this batch size.",
        panel=BUDGET,
        metavar="S",
        above=0,
        example="0.5",
        short=True,
    )
    metric: Literal["auto", "error", "fid"] = setting(
        "auto",
        help="Judge by the distance from the dense model's exact images, or by FID; auto: by FID where images suffice.",
        panel=SEARCH,
        short=True,
    )
    reference: str | None = name_setting(
        None, help="Reference of FID.", panel=SEARCH, needs=SCORED, default_text="the checkpoint's", short=True
    )
    features: FeatureOptions = group(
        FeatureOptions,
        only=("extractor", "extractor_weights"),
        extractor={"panel": SEARCH, "needs": (SCORED,)},
        extractor_weights={"panel": SEARCH, "needs": (SCORED,), "short": False},
    )
    mediators: tuple[int, ...] | None = setting(
        None,
        help="Mediator counts to try.",
        panel=SEARCH,
        metavar="N,...|none",
        parse=parse_mediators,
        expects="comma-separated whole numbers, or none",
        default_text="the checkpoint's",
        example="4,16",
        short=True,
    )
    finalists: int | None = count_setting(
        None,
        MAX_IMAGES,
        help="Maximum number of candidates to run, evenly spread over the costs within the budget.",
        panel=SEARCH,
        default_text="all",
        example="12",
    )
    fit: bool = setting(
        False,
        help="Also fit the choice's times and weights to recorded images; kept only if others come out better.",
        panel=SEARCH,
        needs=(FITTED, MULTISTEP),
        short=True,
    )
    output: Path = output_setting(Path("tuning"), metavar="DIR", help="Output folder; another budget reuses it.")

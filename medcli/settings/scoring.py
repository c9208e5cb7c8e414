"""Settings of `fid`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcli.errors import ConfigError
from medcli.settings.declare import INPUT, MACHINE, OUTPUT, SCORING, Needs, count_setting, group, setting
from medcli.settings.machine import MAX_BATCH, force_setting, output_setting
from medcli.settings.network import name_setting, parse_name
from medcli.settings.sampling import MAX_IMAGES

METRICS = ("fid", "sfid", "is", "precision", "recall", "kid")
"""Every metric, in the order of reports."""
SCORES = Needs("write_reference", (None,), words="scoring")
"""With --write-reference nothing is scored."""
MAX_WORKERS = 4096


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Options of feature extraction; only the choice of the network changes a score.

    Raises:
        ConfigError: If weights are both named and to be fetched.
    """

    extractor: str | None = setting(
        None,
        help="Feature network: inception, a bundled one, or a file (TorchScript, or one of --train-extractor).",
        panel=SCORING,
        metavar="NAME|FILE",
        parse=parse_name,
        expects="a name or a path",
        default_text="the reference's, else inception",
        short=True,
    )
    extractor_weights: Path | None = setting(
        None,
        default_text="torch.hub's folder, or the bundle",
        help="Weights of the feature network.",
        panel=SCORING,
        metavar="PATH",
        short=True,
    )
    """None looks in torch.hub's folder, or in the bundle."""
    batch_size: int = count_setting(64, MAX_BATCH, help="Batch size.", panel=MACHINE, short=True)
    device: str | None = setting(
        None,
        help="cpu, cuda, mps, or several as in cuda:0,1.",
        panel=MACHINE,
        metavar="NAME,...",
        default_text="the fastest available",
        short=True,
    )
    num_workers: int | None = count_setting(
        None, MAX_WORKERS, key="workers", help="Number of processes.", panel=MACHINE, default_text="one per device"
    )
    cache_dir: Path | None = setting(
        None,
        help="Folder of cached features.",
        panel=MACHINE,
        metavar="DIR",
        default_text="$MEDCLI_CACHE or ~/.cache/medcli/features",
    )
    cache_limit: float = setting(
        20.0,
        help="Gigabytes of cached features above which those not used for longest are removed.",
        panel=MACHINE,
        metavar="GB",
        above=0,
        needs=Needs("no_cache", (False,), words="the cache"),
    )
    no_cache: bool = setting(False, help="Neither read nor write cached features.", panel=MACHINE)
    download: bool = setting(
        False, help="Fetch the Inception weights (96 MB) if they are missing.", panel=MACHINE, short=True
    )

    def __post_init__(self) -> None:
        if self.download and self.extractor_weights:
            raise ConfigError(
                f"--download and --extractor-weights {self.extractor_weights}: only one can be used",
                hint="leave one out",
            )


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Samples to score.

    Raises:
        ConfigError: If FID is to be extrapolated and not computed.
    """

    samples: Path | None = setting(
        None,
        help="A folder of images, a sample folder, an npz; or a checkpoint or run folder, which is sampled first.",
        metavar="SAMPLES",
        positional=True,
        default_text="the newest folder under ./samples",
    )
    reference: str | None = name_setting(
        None,
        help="The same, an ADM reference npz, or a bundled name.",
        metavar="REFERENCE",
        positional=True,
        default_text="what the samples' manifest names",
    )
    metrics: tuple[str, ...] | None = setting(
        None,
        help="Comma-separated: fid, sfid, is, precision, recall, kid.",
        panel=SCORING,
        metavar="NAME,...",
        choices=METRICS,
        default_text="all the feature network has layers for",
        example="fid",
        short=True,
    )
    num_images: int | None = count_setting(
        None,
        MAX_IMAGES,
        help="Score N samples only, spread evenly over them or chosen by --seed; of a checkpoint, draw N.",
        panel=SCORING,
        minimum=2,
        default_text="all; 1000 of a checkpoint",
        short=True,
    )
    seed: int | None = count_setting(
        None,
        2**64 - 1,
        help="Choose the N samples at random by this seed.",
        panel=SCORING,
        minimum=0,
        needs=Needs("num_images", words="--num-images N"),
        default_text="spread evenly",
    )
    extrapolate: bool = setting(False, help="Also estimate FID of infinitely many samples.", panel=SCORING, short=True)
    features: FeatureOptions = group(FeatureOptions)

    def __post_init__(self) -> None:
        if self.extrapolate and self.metrics is not None and "fid" not in self.metrics:
            raise ConfigError("--extrapolate is about FID, which --metrics leaves out", hint="add fid to --metrics")


@dataclass(frozen=True, kw_only=True)
class FidRequest:
    """Samples to score or to compare, or images to make a reference of."""

    score: ScoreRequest = group(
        ScoreRequest,
        reference={"needs": (SCORES,)},
        metrics={"needs": (SCORES,)},
        extrapolate={"needs": (SCORES,)},
    )
    more: tuple[Path, ...] = setting(
        (),
        default_text="",
        help="Further sample sets, with --compare.",
        metavar="MORE",
        positional=True,
        needs=Needs("compare", words="--compare"),
    )
    named_reference: str | None = name_setting(
        None,
        spelled="reference",
        default_text="",
        help="The reference, as REFERENCE above; the way to name it with --compare.",
        panel=INPUT,
        metavar="REFERENCE",
        needs=SCORES,
        short=True,
    )
    compare: bool = setting(
        False,
        help="All arguments are sample sets, or reports of earlier runs (.json): one table of them.",
        panel=SCORING,
        needs=SCORES,
        short=True,
    )
    write_reference: Path | None = setting(
        None,
        default_text="",
        help="Make a reference .npz of SAMPLES instead of scoring them.",
        panel=OUTPUT,
        metavar="PATH",
        short=True,
    )
    reference_images: int | None = count_setting(
        None,
        MAX_IMAGES,
        help="Number of images to store in it; 0 stores statistics alone.",
        panel=OUTPUT,
        minimum=0,
        needs=Needs("write_reference", words="--write-reference PATH"),
        default_text="10000",
    )
    train_extractor: Path | None = setting(
        None,
        default_text="",
        help="Train a feature network on a folder of images, a sub-folder per class, instead of scoring.",
        panel=OUTPUT,
        metavar="FOLDER",
        short=True,
    )
    output: Path | None = output_setting(
        metavar="FILE",
        help="The feature network to write.",
        needs=Needs("train_extractor", words="--train-extractor FOLDER"),
        default_text="FOLDER-classifier.safetensors here",
    )
    markdown: bool = setting(False, help="Show the scores as a Markdown table.", panel=OUTPUT, needs=SCORES, short=True)
    force: bool = force_setting("Compare scores whose protocols differ; replace an existing file.")

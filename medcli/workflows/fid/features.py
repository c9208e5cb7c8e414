"""How features are computed: which network, on which devices, kept where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcli.data.images import ImageSource
from medcli.errors import ConfigError
from medcli.runtime.processes import this_process
from medcli.runtime.reporting import Reporter
from medcli.scores.extractor import INCEPTION, FeatureExtractor
from medcli.scores.feature_cache import FeatureCache
from medcli.scores.feature_workers import FeatureWorkers, assist, plan_workers
from medcli.scores.features import FeatureSet, Wanted, extract, job_of
from medcli.scores.inception_weights import download_inception
from medcli.scores.registry import load_extractor


@dataclass(frozen=True, kw_only=True, slots=True)
class Computing:
    """What a user may say about it; none of it changes a score but for the choice of the network."""

    extractor: str | None = None
    """Feature network; None takes the one the reference was made with, else Inception."""
    extractor_weights: Path | None = None
    """Weights of the extractor; None looks where they belong."""
    download: bool = False
    """Whether Inception weights that are not on this machine may be fetched."""
    batch_size: int = 64
    """Most images in one network call."""
    device: str | None = None
    """Where the network runs: one device, or several as in `cuda:0,1`; None takes the best there is."""
    num_workers: int | None = None
    """Processes that share the work; None takes one a device."""
    cache_folder: Path | None = None
    """Where features are kept and looked for; None keeps them in memory alone."""

    def __post_init__(self) -> None:
        if self.download and self.extractor_weights:
            raise ConfigError(
                f"--download and --extractor-weights {self.extractor_weights}: only one can be used",
                hint="leave one out",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Computer:
    """A network that is loaded, and those who run it."""

    extractor: FeatureExtractor
    workers: FeatureWorkers
    cache: FeatureCache | None
    batch_size: int

    def features_of(self, source: ImageSource, wanted: Wanted, reporter: Reporter) -> FeatureSet:
        """Features of an image set.

        Raises:
            DataError: If an image can't be read, or a feature is not finite.
        """
        return extract(
            source,
            self.extractor,
            wanted,
            batch_size=self.batch_size,
            reporter=reporter,
            cache=self.cache,
            workers=self.workers,
        )

    def assist(self, source: ImageSource) -> None:
        """Do a share of the work on an image set for the first process of this launch.

        Raises:
            DataError: If an image can't be read, or a feature is not finite.
        """
        assist(job_of(source, self.extractor, batch_size=self.batch_size, cache=self.cache))


def load_computer(computing: Computing, name: str, reporter: Reporter) -> Computer:
    """Load a network, and fetch its weights before if that was asked for.

    Args:
        computing: What the user said.
        name: The extractor, chosen by now.
        reporter: Told of progress.

    Raises:
        ConfigError: If the extractor or a device is unknown, or processes of a launch have no cache to share.
        DataError: If the weights are damaged.
        EnvironmentProblem: If the weights or a device are missing.
    """
    processes = this_process()
    if computing.cache_folder is None and not processes.is_alone:
        raise ConfigError(
            f"{processes.count} processes were launched, and what they share is the cache",
            hint="leave out --no-cache, or start one process with --workers",
        )
    workers = plan_workers(computing.device, computing.num_workers, computing.extractor_weights, processes)
    if computing.download and name == INCEPTION:
        download_inception(reporter=reporter)
    return Computer(
        extractor=load_extractor(name, weights_path=computing.extractor_weights, device=workers.devices[0]),
        workers=workers,
        cache=FeatureCache(computing.cache_folder) if computing.cache_folder else None,
        batch_size=computing.batch_size,
    )

"""Feature extraction for `medcli fid`: network, devices and cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcli.data.image_source import ImageSource
from medcli.errors import ConfigError
from medcli.runtime.extras import require_extra
from medcli.runtime.processes import this_process
from medcli.runtime.reporting import Reporter
from medcli.scores.extractor import INCEPTION, FeatureExtractor
from medcli.scores.feature_cache import FeatureCache, default_cache_folder
from medcli.scores.feature_workers import FeatureWorkers, assist, plan_workers
from medcli.scores.features import FeatureSet, Wanted, extract, job_of
from medcli.scores.inception_weights import download_inception
from medcli.scores.registry import EXTRACTORS, load_extractor
from medcli.settings.scoring import FeatureOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureComputer:
    """A loaded extractor with its workers and cache."""

    extractor: FeatureExtractor
    workers: FeatureWorkers
    cache: FeatureCache | None
    batch_size: int

    def features_of(self, source: ImageSource, wanted: Wanted, reporter: Reporter) -> FeatureSet:
        """Extract the features of an image set.

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
        """Compute a share of the features of an image set for rank 0.

        Raises:
            DataError: If an image can't be read, or a feature is not finite.
        """
        assist(job_of(source, self.extractor, batch_size=self.batch_size, cache=self.cache))


def cache_folder_of(options: FeatureOptions) -> Path | None:
    """Return the folder of cached features; None: no cache."""
    return None if options.no_cache else options.cache_dir or default_cache_folder()


def load_feature_computer(features: FeatureOptions, name: str, reporter: Reporter) -> FeatureComputer:
    """Load the extractor; download its weights first with `--download`.

    Args:
        features: Options.
        name: Name or file of the extractor.

    Raises:
        ConfigError: If the extractor or a device is unknown, or processes of a launch have no cache to share.
        DataError: If the weights are damaged.
        EnvironmentProblem: If the weights or a device are missing.
    """
    processes, folder = this_process(), cache_folder_of(features)
    if folder is None and not processes.is_alone:
        raise ConfigError(
            f"{processes.count} processes were launched, which share features through the cache",
            hint="leave out --no-cache, or start one process with --workers",
        )
    weights = features.extractor_weights
    if name not in EXTRACTORS:
        if weights is not None:
            raise ConfigError(
                f"--extractor {name} is a file and needs no weights", hint="leave --extractor-weights out"
            )
        if not Path(name).is_file():
            raise ConfigError(f"unknown extractor {name!r}", hint=f"choose {', '.join(EXTRACTORS)}, or name a file")
        weights = Path(name)
        name = weights.name if weights.stem in EXTRACTORS else weights.stem  # a file is none of these extractors
    workers = plan_workers(features.device, features.num_workers, weights, processes)
    if features.download and name == INCEPTION:
        require_extra("torch-fidelity")  # before a long download
        download_inception(reporter=reporter)
    return FeatureComputer(
        extractor=load_extractor(name, weights_path=weights, device=workers.devices[0]),
        workers=workers,
        cache=FeatureCache(folder, max_bytes=int(features.cache_limit * 1e9)) if folder else None,
        batch_size=features.batch_size,
    )

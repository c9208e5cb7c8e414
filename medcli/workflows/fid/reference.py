"""Write a reference file for a set of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcli.errors import ConfigError, DataError
from medcli.runtime.files import atomic_path
from medcli.runtime.reporting import Reporter
from medcli.scores.extractor import POOL, SPATIAL
from medcli.scores.features import Wanted
from medcli.scores.protocol import PROTOCOL, protocol_details, software
from medcli.scores.reference_file import ReferenceFile
from medcli.settings.scoring import FeatureOptions
from medcli.workflows.fid.features import load_feature_computer
from medcli.workflows.fid.inputs import extractor_name, features_of, survey

NUM_REFERENCE_IMAGES = 10_000
"""Number of images in ADM's reference files, for precision and recall."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceRequest:
    """Options of `medcli fid --write-reference`."""

    images: Path
    """A folder of images, a sample folder or an npz with `arr_0`."""
    output: Path
    """Output npz file."""
    num_reference_images: int = NUM_REFERENCE_IMAGES
    """Most images to store, evenly spaced; 0 stores statistics only."""
    num_images: int | None = None
    """Images to use, from the first; None uses all."""
    features: FeatureOptions = FeatureOptions()
    """Feature options; the default extractor is that of the images' manifest, else Inception."""
    force: bool = False
    """Replace an existing file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceReport:
    """The written reference file."""

    output: str
    num_images: int
    """Images behind the statistics."""
    num_reference_images: int
    """Images stored."""
    keys: tuple[str, ...]
    extractor: str
    protocol_details: dict[str, Any]
    provenance: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "output": self.output,
            "num_images": self.num_images,
            "num_reference_images": self.num_reference_images,
            "keys": list(self.keys),
            "extractor": self.extractor,
            "protocol": PROTOCOL,
            "protocol_details": self.protocol_details,
            "provenance": self.provenance,
        }


def write_reference(request: ReferenceRequest, reporter: Reporter) -> ReferenceReport:
    """Compute the statistics of ADM's reference files and write them, with some of the images.

    The images are copied first, which is fast and finds damaged ones, then the network runs. The file is written
    atomically.

    Raises:
        ConfigError: If the file exists and `force` is off, or the extractor is unknown.
        DataError: If the images are missing or unusable, or their sizes differ.
        EnvironmentProblem: If the extractor's weights or the device are missing, or the place can't be written to.
    """
    if request.output.suffix != ".npz":
        raise ConfigError(f"{request.output} is no .npz name", hint=f"write {request.output}.npz")
    if request.output.exists() and not request.force:
        raise ConfigError(f"{request.output} already exists", hint="pass --force to replace it, or another name")
    side = survey(request.images, request.num_images)
    if side.source is None or side.statistics:
        raise DataError(f"{side.name} holds ready statistics, a reference is made from images", hint="name its images")
    name = extractor_name(request.features.extractor, None, request.images)
    computer = load_feature_computer(request.features, name, reporter)
    extractor = computer.extractor
    num_stored = min(request.num_reference_images, side.source.num_images)
    wanted = Wanted(gaussians=frozenset({POOL, SPATIAL} & set(extractor.dims)))
    with atomic_path(request.output, force=request.force) as temporary, ReferenceFile(temporary) as file:
        if num_stored:
            file.write_images(side.source, num_stored, reporter)
        found = features_of(side, computer, wanted, reporter)
        file.write_statistics(found.features, extractor)
    return ReferenceReport(
        output=str(request.output),
        num_images=side.source.num_images,
        num_reference_images=num_stored,
        keys=tuple(file.keys),
        extractor=extractor.name,
        protocol_details=protocol_details(extractor),
        provenance={
            "extractor_sha256": extractor.weights_sha256,
            "images_sha256": found.images_sha256,
            **software(),
        },
    )

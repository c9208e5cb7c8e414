"""Write a reference file for a set of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medcli.errors import ConfigError, DataError
from medcli.runtime.files import atomic_path, refuse_existing
from medcli.runtime.json_records import json_fields
from medcli.runtime.reporting import Reporter
from medcli.scores.extractor import POOL, SPATIAL
from medcli.scores.features import Wanted
from medcli.scores.protocol import PROTOCOL, protocol_details, software
from medcli.scores.reference_file import ReferenceFile
from medcli.settings.scoring import FidRequest
from medcli.workflows.fid.features import load_feature_computer
from medcli.workflows.fid.inputs import extractor_name, features_of, survey

NUM_REFERENCE_IMAGES = 10_000
"""Number of images in ADM's reference files, for precision and recall."""


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
        return {**json_fields(self), "protocol": PROTOCOL}


def write_reference(request: FidRequest, reporter: Reporter) -> ReferenceReport:
    """Compute the statistics of ADM's reference files and write them, with some of the images.

    The images are copied first, which is fast and finds damaged ones, then the network runs. The file is written
    atomically.

    Args:
        request: Its samples are the images, its `write_reference` is the output; without an extractor that of the
            images' manifest is taken, else Inception.

    Raises:
        ConfigError: If the file exists and `force` is off, or the extractor is unknown.
        DataError: If the images are missing or unusable, or their sizes differ.
        EnvironmentProblem: If the extractor's weights or the device are missing, or the place can't be written to.
    """
    images, output, features = request.score.samples, request.write_reference, request.score.features
    if images is None or output is None:
        raise ConfigError("--write-reference needs images", hint="medcli fid IMAGES --write-reference PATH")
    if output.suffix != ".npz":
        raise ConfigError(f"{output} is no .npz name", hint=f"write {output}.npz")
    refuse_existing(output, force=request.force, inputs=[images])
    side = survey(images, request.score.num_images, request.score.seed)
    if side.source is None or side.statistics:
        raise DataError(f"{side.name} holds ready statistics, a reference is made from images", hint="name its images")
    name = extractor_name(features.extractor, None, images)
    computer = load_feature_computer(features, name, reporter)
    extractor = computer.extractor
    wanted_images = NUM_REFERENCE_IMAGES if request.reference_images is None else request.reference_images
    num_stored = min(wanted_images, side.source.num_images)
    wanted = Wanted(gaussians=frozenset({POOL, SPATIAL} & set(extractor.dims)))
    with atomic_path(output, force=request.force) as temporary, ReferenceFile(temporary) as file:
        if num_stored:
            file.write_images(side.source, num_stored, reporter)
        found = features_of(side, computer, wanted, reporter)
        file.write_statistics(found.features, extractor)
    return ReferenceReport(
        output=str(output),
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

"""One pass over an image set: the features every metric reads.

Dimension key: B batch, N images, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from medcli.data.images import ImageSource
from medcli.errors import DataError
from medcli.metrics.extractor import FeatureExtractor
from medcli.metrics.moments import Gaussian, Moments
from medcli.runtime.reporting import Reporter


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a pass is to keep; whatever is not wanted is not held."""

    gaussians: frozenset[str] = frozenset()
    """Kinds of features whose mean and covariance are needed."""
    rows: frozenset[str] = frozenset()
    """Kinds of features needed image by image."""
    blocks: bool = False
    """Whether the moments of contiguous blocks are needed too, of the kinds in `gaussians`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSet:
    """What is known about the features of an image set; a statistics file knows less than images do."""

    name: str
    """What messages call the set."""
    num_images: int | None
    """Images whose features are or could be had one by one; None for a set known by statistics alone."""
    gaussians: Mapping[str, Gaussian] = field(default_factory=dict)
    """Mean and covariance by kind of feature."""
    rows: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """(N, D) float32 features in index order, on the CPU, by kind of feature."""
    block_moments: Mapping[str, Sequence[Moments]] = field(default_factory=dict)
    """Moments of contiguous blocks of rows by kind of feature, each computed when it is asked for."""
    content_sha256: str | None = None
    """Hash of the pixels of all images in order, one and the same for PNGs and an npz of them; None without images."""


def extract(
    source: ImageSource, extractor: FeatureExtractor, wanted: Wanted, *, batch_size: int, reporter: Reporter
) -> FeatureSet:
    """Run the extractor over all images once.

    Args:
        source: The images.
        extractor: The network.
        wanted: What to keep. Spatial maps, say, are large: wanted as a Gaussian, they are summed and forgotten.
        batch_size: Most images in one network call.
        reporter: Told of progress.

    Raises:
        DataError: If there are fewer than two images, one can't be read, or a feature is not finite.
    """
    if source.num_images < 2:
        raise DataError(
            f"{source.name} holds {source.num_images} image, scores need at least 2",
            hint="score more images, thousands if you can",
        )
    moments = {kind: Moments.empty(extractor.dims[kind]) for kind in wanted.gaussians}
    rows: dict[str, list[torch.Tensor]] = {kind: [] for kind in wanted.rows}
    digest = hashlib.sha256()
    done = 0
    for images_BYXC in source.batches(batch_size, reporter):
        # TF32, on by default in CUDA convolutions, moves the third digit of a score (metrics-facts 3).
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features = extractor.features(images_BYXC)
        for kind in moments:
            moments[kind] = moments[kind].merge(Moments.of(features[kind]))
        for kind, kept in rows.items():
            kept.append(features[kind].cpu())
        for image_YXC in images_BYXC:
            digest.update(hashlib.sha256(f"{tuple(image_YXC.shape)}".encode() + image_YXC.numpy().tobytes()).digest())
        done += len(images_BYXC)
        reporter.progress(done, source.num_images, "images")
    return FeatureSet(
        name=source.name,
        num_images=source.num_images,
        gaussians={kind: running.gaussian() for kind, running in moments.items()},
        rows={kind: torch.cat(kept) for kind, kept in rows.items()},
        content_sha256=digest.hexdigest(),
    )

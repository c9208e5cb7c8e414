"""Write reference files that ADM's evaluator, pytorch-fid and this program read (metrics-facts 1.1).

Dimension key: B batch, N images, Y X height and width, C channels.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from medcli.data.image_archive import IMAGES_KEY, spread
from medcli.data.image_source import ImageSource
from medcli.errors import DataError
from medcli.runtime.reporting import Reporter
from medcli.scores.extractor import FeatureExtractor
from medcli.scores.features import FeatureSet
from medcli.scores.reference import EXACT_SUFFIX, NOTE_KEY, STATISTICS, ReferenceInfo

NO_DATE = (1980, 1, 1, 0, 0, 0)
"""Time stamp of the archive's members: the same images make the same bytes on any day."""


class ReferenceFile:
    """An npz that is being written, one array at a time."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)
        self.keys: list[str] = []

    def __enter__(self) -> ReferenceFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self._archive.close()

    def write_images(self, source: ImageSource, num_images: int, reporter: Reporter) -> None:
        """Write `arr_0`: images of the source at even distances, so that a sorted source keeps its proportions.

        Args:
            source: At least as many images; those chosen are read one at a time.
            num_images: How many to keep.

        Raises:
            DataError: If their sizes differ, so that no array can hold them.
        """
        chosen = _chosen(source, num_images, reporter)
        first_YXC = next(chosen)
        with self._member(IMAGES_KEY) as member:
            shape = (num_images, *first_YXC.shape)
            np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
            member.write(first_YXC.tobytes())
            for image_YXC in chosen:
                if image_YXC.shape != first_YXC.shape:
                    raise DataError(
                        f"{source.name} holds images of different sizes, {first_YXC.shape[1]}x{first_YXC.shape[0]} "
                        f"and {image_YXC.shape[1]}x{image_YXC.shape[0]} px: no reference can hold both",
                        hint="resize them, or keep statistics alone with --reference-images 0",
                    )
                member.write(image_YXC.tobytes())

    def write_statistics(self, features: FeatureSet, extractor: FeatureExtractor) -> None:
        """Write means (float32, as ADM has them, and float64) and covariances (float64), and where they come from."""
        for kind, mean_key, covariance_key in STATISTICS:
            if kind in features.gaussians:
                gaussian = features.gaussians[kind]
                mean_D = gaussian.mean_D.numpy()
                self._write(mean_key, mean_D.astype(np.float32))
                self._write(covariance_key, gaussian.covariance_DD.numpy())
                self._write(f"{mean_key}{EXACT_SUFFIX}", mean_D)
        assert features.num_images is not None
        self._write(NOTE_KEY, np.array(ReferenceInfo.of(extractor, features.num_images).text()))

    def _write(self, key: str, array: npt.NDArray[np.generic]) -> None:
        with self._member(key) as member:
            np.lib.format.write_array(member, array, allow_pickle=False)

    def _member(self, key: str) -> IO[bytes]:
        self.keys.append(key)
        return self._archive.open(zipfile.ZipInfo(f"{key}.npy", NO_DATE), "w", force_zip64=True)


def _chosen(source: ImageSource, num_images: int, reporter: Reporter) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield evenly spread images; the others are not decoded."""
    places = spread(source.num_images, num_images)
    for done, (image_YXC,) in enumerate(source.read(range(place, place + 1) for place in places), 1):
        yield image_YXC.numpy()
        reporter.progress(done, num_images, "images copied")

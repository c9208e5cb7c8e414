"""Encode a folder of images once, into shards that training reads in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from os.path import realpath
from pathlib import Path
from typing import Any

from medcli.config import SD_AUTOENCODER
from medcli.data.assets import BUNDLES
from medcli.data.autoencoder import LatentEncoder, open_encoder
from medcli.data.datasets import existing
from medcli.data.external_latents import open_external
from medcli.data.image_listing import ImageListing, list_images
from medcli.data.latent_index import AGAIN, INDEX, SHARD, LatentIndex, read_index
from medcli.data.latent_set import STD_RANGE
from medcli.errors import ConfigError, DataError, listed
from medcli.runtime.device import use_device
from medcli.runtime.files import require_space
from medcli.runtime.json_records import json_fields
from medcli.runtime.precision import DTYPES, number_format, products_of, warn_if_slow
from medcli.runtime.presence import SIGNS
from medcli.runtime.processes import this_process
from medcli.runtime.reporting import Reporter, Silent
from medcli.runtime.shared_work import SharedWork, missing_items
from medcli.runtime.temporaries import is_temporary, sweep
from medcli.settings.latents import LatentsRequest
from medcli.workflows.latents_encoding import LatentEncoding, is_done, missing_shards

LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentsReport:
    """Contents of a folder of latents."""

    output: str
    num_images: int
    num_classes: int
    num_shards: int
    latent_shape: tuple[int, int, int]
    """(C, Y, X)."""
    mean: tuple[float, ...]
    """Mean of each channel of the scaled latents."""
    std: tuple[float, ...]
    """Their standard deviations."""
    num_new: int
    """Images this process encoded."""
    seconds: float
    """Wall time of this run."""
    images_per_sec: float | None
    """None if nothing was missing."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return json_fields(self)


def make_latents(request: LatentsRequest, reporter: Reporter) -> LatentsReport | None:
    """Encode the missing images, together with any other process of the same command.

    Args:
        request: Settings. The same request again continues.

    Returns:
        Contents of the folder; None for the processes of a launch but rank 0, which waits for the others.

    Raises:
        ConfigError: If the resolution does not fit, or the output holds something else or a run with other settings.
        DataError: If the images are unusable, or not those of the run to continue.
        EnvironmentProblem: If the autoencoder, the device or room on the disk is missing.
    """
    processes = this_process()
    reporter = reporter if processes.is_first else Silent()
    path, output = _source(request), request.output or _default_output(request)
    device = use_device(request.machine.device, processes)
    dtype = number_format(request.machine.dtype, device)
    request = replace(request, machine=replace(request.machine, dtype=dtype))
    warn_if_slow(DTYPES[dtype], device, reporter)
    _check_output(output)
    encoder = open_encoder(
        request.vae or SD_AUTOENCODER,
        device=device,
        dtype=DTYPES[dtype],
        batch_size=request.machine.batch_size,
    )
    _check_resolution(request.resolution_px, encoder)
    listing = list_images(path, reporter)
    index = _index(request, listing, encoder)
    _check_same(output, _read_index(output), index)
    require_space(output, len(missing_shards(output, index)) * _shard_bytes(index), f"latents of {path}")
    with SharedWork(
        output / LOCK,
        is_done=lambda number: is_done(output, index, number),
        mend=lambda: sweep(output, owned=True),
        processes=processes,
    ) as work:
        index = _begin(output, index)
        encoding = LatentEncoding(
            folder=output, index=index, listing=listing, encoder=encoder, work=work, reporter=reporter
        )
        with products_of(dtype):
            num_new, seconds, is_last = encoding.run()
        if not processes.is_first:
            return None
        if not is_last:
            raise missing_items(len(missing_shards(output, index)), "shards", output)
        if not index.is_complete:
            index = encoding.completed()
            index.write(output)
    _remark(index, reporter)
    return _report(output, index, num_new, seconds)


def _source(request: LatentsRequest) -> Path:
    """Return the path of the images; refuse latents."""
    if request.data in BUNDLES:
        raise ConfigError(
            f"the bundled {request.data} are trained on as pixels and need no latents",
            hint=f"medcli finetune --data {request.data}",
        )
    path = existing(request.data)
    if path.is_dir() and (read_index(path) is not None or open_external(path, Silent()) is not None):
        raise DataError(
            f"{path} holds latents already, expected images", hint=f"medcli finetune --data {path} reads them as is"
        )
    return path


def _default_output(request: LatentsRequest) -> Path:
    path = Path(realpath(request.data))
    return Path(f"{path.name if path.is_dir() else path.stem}-latents-{request.resolution_px}")


def _check_output(output: Path) -> None:
    """Refuse a folder that holds something else."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file, expected a folder name", hint="choose another name with --output")
    is_new = output.is_dir() and _read_index(output) is None
    if is_new and not all(_is_ours(entry.name) for entry in output.iterdir()):
        raise ConfigError(f"{output} is not empty and holds no latents of medcli", hint="choose another --output")


def _read_index(output: Path) -> LatentIndex | None:
    """Read the index of the run to continue; None if it is missing or damaged and the folder holds shards alone.

    A damaged one is then written again, since each shard names its run.
    """
    try:
        return read_index(output)
    except DataError as err:
        if err.hint == AGAIN and all(_is_ours(entry.name) for entry in output.iterdir()):
            return None
        raise DataError(err.message, hint="choose another --output, or remove that folder") from err


def _is_ours(name: str) -> bool:
    return name in (LOCK, INDEX, SIGNS) or is_temporary(name) or SHARD.fullmatch(name) is not None


def _check_resolution(resolution_px: int, encoder: LatentEncoder) -> None:
    if resolution_px % encoder.stride:
        near = max(encoder.stride, round(resolution_px / encoder.stride) * encoder.stride)
        raise ConfigError(
            f"resolution {resolution_px} px is not a multiple of the autoencoder's stride of {encoder.stride}",
            hint=f"try --res {near}",
        )


def _index(request: LatentsRequest, listing: ImageListing, encoder: LatentEncoder) -> LatentIndex:
    side = request.resolution_px // encoder.stride
    return LatentIndex(
        source=str(Path(realpath(request.data))),
        source_fingerprint=listing.fingerprint,
        num_images=listing.num_images,
        num_classes=listing.num_classes,
        shape=(encoder.channels, side, side),
        resolution_px=request.resolution_px,
        autoencoder=encoder.name,
        autoencoder_sha256=encoder.sha256,
        dtype=number_format(request.machine.dtype, encoder.autoencoder.device),
        storage=request.storage,
        flip=request.flip,
        scale=encoder.scale,
        shift=encoder.shift,
        shard_size=min(request.shard_size, listing.num_images),
        class_names=listing.class_names,
    )


def _check_same(output: Path, before: LatentIndex | None, index: LatentIndex) -> None:
    """Refuse to continue a run with other settings or of other images."""
    if before is None:
        return
    differing = [name for name, value in index.settings.items() if before.settings[name] != value]
    if not differing:
        return
    if "source_fingerprint" in differing:
        raise DataError(
            f"{output} holds latents of other images ({before.num_images} of {before.source})",
            hint="choose another --output, or remove that folder",
        )
    raise ConfigError(
        f"{output} holds latents with other settings ({listed(differing)})",
        hint="choose another --output, or remove that folder",
    )


def _shard_bytes(index: LatentIndex) -> int:
    copies = 2 if index.flip else 1
    return index.shard_size * copies * 2 * math.prod(index.shape) * DTYPES[index.storage].itemsize


def _begin(output: Path, index: LatentIndex) -> LatentIndex:
    """Write the index of a new run, or return that of the run to continue."""
    before = _read_index(output)
    _check_same(output, before, index)
    if before is None:
        index.write(output)
        return index
    if before.is_complete and missing_shards(output, before):
        # Shards were removed since: the statistics are no longer known to be theirs.
        index.write(output)
        return index
    return before


def _remark(index: LatentIndex, reporter: Reporter) -> None:
    typical = math.sqrt(sum(value**2 for value in index.std or ()) / index.shape[0])
    low, high = STD_RANGE
    if not low <= typical <= high:
        reporter.note(
            f"scaled latents have standard deviation {typical:.3g}, expected about 1: is {index.scale:g} this "
            f"autoencoder's factor (scaling_factor in its config.json)?"
        )


def _report(output: Path, index: LatentIndex, num_new: int, seconds: float) -> LatentsReport:
    return LatentsReport(
        output=str(output),
        num_images=index.num_images,
        num_classes=index.num_classes,
        num_shards=index.num_shards,
        latent_shape=index.shape,
        mean=index.mean or (),
        std=index.std or (),
        num_new=num_new,
        seconds=seconds,
        images_per_sec=num_new / seconds if num_new and seconds else None,
    )

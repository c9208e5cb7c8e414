"""Open a data set by name or path and check that it fits the model."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import torch

from medcli.checkpoint.lightningdit import STATISTICS
from medcli.config import ModelConfig
from medcli.data.assets import BUNDLES
from medcli.data.autoencoder import open_encoder
from medcli.data.bundled_set import bundled_set
from medcli.data.external_latents import ExternalLatents, open_external
from medcli.data.image_listing import list_images
from medcli.data.image_set import EncodedSet, PixelSet
from medcli.data.latent_index import LatentIndex, open_store, read_index
from medcli.data.latent_set import Content, LatentSet, check_scale
from medcli.data.latent_statistics import NO_STATISTICS, Statistics, statistics_of
from medcli.data.sampled_latents import find_sampled, read_sampled
from medcli.data.training_set import TrainingSet
from medcli.errors import ConfigError, DataError
from medcli.runtime.reporting import Reporter, Silent

STATISTICS_TOLERANCE = 0.05
"""Difference of two statistics of the same latents, in standard deviations: other samples of the data give some."""


def open_training_set(
    name_or_path: str,
    config: ModelConfig,
    *,
    autoencoder: str | None = None,
    device: torch.device | str = "cpu",
    flip: bool = True,
    reporter: Reporter | None = None,
) -> TrainingSet:
    """Open a data set, whose kind is found by its content, and check it against the model.

    Args:
        name_or_path: A bundle; a folder of images with a sub-folder a class, or with a file of labels; such a file; a
            folder that `medcli latents` or `medcli sample --latents` made; or a folder of latents in the layout of
            fast-DiT, REPA or LightningDiT.
        config: The model to train.
        autoencoder: Autoencoder that encodes images for a model of latents: a local folder, or a name in the Hugging
            Face cache; None: the model's own.
        device: Device of the autoencoder.
        flip: Mirror half of all draws, if the data allows it; bundled images are never mirrored.
        reporter: Receives notes.

    Raises:
        DataError: If the data is missing, damaged or does not fit the model.
        ConfigError: If the autoencoder makes latents of another shape than the model's.
        EnvironmentProblem: If an autoencoder is needed and not on this machine.
    """
    notes = reporter or Silent()
    data: TrainingSet
    if name_or_path in BUNDLES:
        if config.autoencoder is not None:
            raise DataError(
                f"the {name_or_path} are pixels, the model takes latents", hint="train a model of pixels on them"
            )
        data = bundled_set(name_or_path)
    else:
        path = existing(name_or_path)
        data = (
            _open_sampled(path, config)
            or _open_latents(path, config, flip, notes)
            or _open_images(path, config, autoencoder, device, flip, notes)
        )
    check_fit(data, config)
    return data


def existing(name_or_path: str) -> Path:
    """Return the path of an existing data set.

    Raises:
        DataError: If not.
    """
    path = Path(name_or_path)
    if not path.exists():
        raise DataError(
            f"no such data set: {name_or_path}",
            hint=f"name a folder of images or latents, or a bundled set: {', '.join(BUNDLES)}",
        )
    return path


def check_fit(data: TrainingSet, config: ModelConfig) -> None:
    """Refuse a set of another shape or with more classes than the model.

    Raises:
        DataError: Naming both sides.
    """
    wanted = (config.in_channels, config.latent_size, config.latent_size)
    if data.shape_CYX != wanted:
        kind = "pixels" if config.autoencoder is None else "latents"
        raise DataError(
            f"{data.name} holds {kind} of shape {data.shape_CYX}, the model takes {wanted}",
            hint=_other_size(data.shape_CYX, config),
        )
    if data.num_classes > config.num_classes:
        raise DataError(
            f"{data.name} has {data.num_classes} classes, the model {config.num_classes}",
            hint=f"pass --num-classes {data.num_classes}",
        )


def _other_size(shape_CYX: tuple[int, int, int], config: ModelConfig) -> str:
    if shape_CYX[0] != config.in_channels or shape_CYX[1] != shape_CYX[2]:
        return "use another model or other data"
    return f"pass --res {shape_CYX[1] * config.latent_downsample}, or use data of {config.resolution_px} px"


def _open_latents(path: Path, config: ModelConfig, flip: bool, reporter: Reporter) -> LatentSet | None:
    """Open a folder of latents, of this or another project; None if it holds none."""
    if not path.is_dir():
        return None
    index = read_index(path)
    found = open_external(path, reporter) if index is None else None
    if index is None and found is None:
        return None
    if config.autoencoder is None:
        raise DataError(f"{path} holds latents, the model takes pixels", hint="name the folder of the images")
    if index is not None:
        return _own(path, index, config, flip)
    assert found is not None
    return _external(found, config, flip, reporter)


def _open_sampled(path: Path, config: ModelConfig) -> LatentSet | None:
    """Open what `medcli sample --latents` wrote, of latents or pixels; None if it is another kind of data."""
    folder = find_sampled(path)
    if folder is None:
        return None
    index, rows = read_sampled(folder)
    if index.is_pixels != (config.autoencoder is None):
        kinds = ("pixels", "latents") if index.is_pixels else ("latents", "pixels")
        raise DataError(
            f"{folder} holds {kinds[0]} of a model, this one takes {kinds[1]}", hint="sample them from this model"
        )
    _check_space(folder, (index.scale, index.shift), config, "sample them from this model")
    return LatentSet(rows=rows, content=Content.LATENT, scale=1.0, shift=0.0, class_names=index.class_names)


def _check_space(folder: Path, space: tuple[float, float], config: ModelConfig, hint: str) -> None:
    """Refuse latents of another scale or shift than the model's, which means another autoencoder.

    Raises:
        DataError: Naming both.
    """
    scale, shift = space
    if not (math.isclose(scale, config.latent_scale) and math.isclose(shift, config.latent_shift)):
        raise DataError(
            f"{folder} was made by an autoencoder of scale {scale:g} and shift {shift:g}, "
            f"the model's latents have {config.latent_scale:g} and {config.latent_shift:g}",
            hint=hint,
        )


def _own(path: Path, index: LatentIndex, config: ModelConfig, flip: bool) -> LatentSet:
    again = f"make them with the model's own: medcli latents {shlex.quote(index.source)} --vae PATH"
    _check_space(path, (index.scale, index.shift), config, again)
    return LatentSet(
        rows=open_store(path, index),
        content=Content.MEAN_LOG_VARIANCE,
        scale=config.latent_scale,
        shift=config.latent_shift,
        statistics=statistics_of(config),
        flip=flip,
        class_names=index.class_names,
    )


def _external(found: ExternalLatents, config: ModelConfig, flip: bool, reporter: Reporter) -> LatentSet:
    data = LatentSet(
        rows=found.rows,
        content=found.content,
        scale=config.latent_scale / found.stored_scale,
        shift=config.latent_shift * found.stored_scale,
        statistics=statistics_of(config),
        flip=flip,
    )
    check_fit(data, config)
    _check_statistics(found.statistics, statistics_of(config), data.name, reporter)
    check_scale(data, config.latent_scale)
    return data


def _check_statistics(held: Statistics, used: Statistics, name: str, reporter: Reporter) -> None:
    """Refuse a model whose latents were normalised by other statistics than a data set's; note those not used.

    Raises:
        DataError: Naming the largest difference.
    """
    if held == NO_STATISTICS:
        return
    if used == NO_STATISTICS:
        reporter.note(
            f"{STATISTICS} of {name} is not applied: latents get the model's own shift and scale, which sampling undoes"
        )
        return
    columns = [[*zip(*pair, used[1], strict=True)] for pair in zip(held, used, strict=True)]
    gaps = [abs(theirs - ours) / std for column in columns for theirs, ours, std in column]
    if max(gaps) > STATISTICS_TOLERANCE:
        raise DataError(
            f"the statistics of {name} differ from the model's by up to {max(gaps):.2g} standard deviations",
            hint="use the latents the model was trained on, or latents of the same autoencoder and data",
        )


def _open_images(
    path: Path,
    config: ModelConfig,
    autoencoder: str | None,
    device: torch.device | str,
    flip: bool,
    reporter: Reporter,
) -> PixelSet | EncodedSet:
    """Open image files, as pixels or encoded when they are read."""
    if config.autoencoder is None:
        if config.in_channels not in (1, 3):
            raise ConfigError(f"a model of {config.in_channels} pixel channels takes no images (expected 1 or 3)")
        listing = list_images(path, reporter)
        return PixelSet(
            name=str(path), listing=listing, channels=config.in_channels, side_px=config.resolution_px, flip=flip
        )
    listing = list_images(path, reporter)
    encoder = open_encoder(autoencoder or config.autoencoder, config=config, device=device)
    pixels = PixelSet(
        name=str(path), listing=listing, channels=encoder.image_channels, side_px=config.resolution_px, flip=flip
    )
    vae = "" if autoencoder is None else f" --vae {shlex.quote(autoencoder)}"
    reporter.note(
        f"{path} is encoded again each time it is read; training is far faster after "
        f"medcli latents {shlex.quote(str(path))} --res {config.resolution_px}{vae}"
    )
    return EncodedSet(
        pixels=pixels,
        encoder=encoder,
        scale=config.latent_scale,
        shift=config.latent_shift,
        statistics=statistics_of(config),
    )

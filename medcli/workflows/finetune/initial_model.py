"""The network a fine-tuning run starts from: a checkpoint with its changes, or fresh weights of a preset or size."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from medcli.checkpoint.class_names import renumbered
from medcli.checkpoint.infer import PIXEL_CHANNELS
from medcli.config import VAVAE, VAVAE_CHANNELS, ModelConfig
from medcli.data.assets import BUNDLES
from medcli.data.bundled_set import bundled_set
from medcli.data.datasets import open_training_set
from medcli.data.latent_origin import LatentOrigin, latent_origin
from medcli.data.latent_statistics import NO_STATISTICS
from medcli.data.pixel_format import PixelFormat, pixel_format
from medcli.data.training_set import TrainingSet
from medcli.errors import ConfigError, DataError
from medcli.model.backbone import fresh_model
from medcli.model.layout import position_tables
from medcli.network import Network, changed, open_network, require_statistics, with_autoencoder
from medcli.presets import DEFAULT_BUNDLE, preset_config, preset_of
from medcli.runtime.reporting import Reporter
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.fresh import FreshNetwork
from medcli.settings.training import PIXELS

GREY, COLOUR = PIXEL_CHANNELS


def with_data(request: FinetuneRequest, reporter: Reporter) -> FinetuneRequest:
    """Return a request that names its data: the bundled set that the checkpoint names, else the first one that fits.

    Raises:
        ConfigError: If the checkpoint names no set and none fits its network.
    """
    if request.data is not None:
        return request
    name = DEFAULT_BUNDLE
    if request.fresh.given is None:
        network = open_network(request.network)
        named = None if network.info is None else network.info.reference
        if named in BUNDLES:
            name = named
        else:
            name = _fitting_bundle(network)
            reporter.note(f"{network.name} names no data: it is trained on the bundled {name}; --data names other data")
    return replace(request, data=name)


def _fitting_bundle(network: Network) -> str:
    """Return the first bundled set whose images and classes fit a network, the default one before the others."""
    problems = []
    for name in (DEFAULT_BUNDLE, *(bundle for bundle in BUNDLES if bundle != DEFAULT_BUNDLE)):
        try:
            open_training_set(name, network.config)
        except DataError as err:
            problems.append(err)
        else:
            return name
    raise ConfigError(
        f"{network.name} names no data, and no bundled set fits it: {problems[0].message}",
        hint="name the data with --data PATH",
    )


def initial_network(request: FinetuneRequest) -> Network:
    """Find the network a run starts from and apply its changes; no weights are read.

    Raises:
        ConfigError: If the preset is unknown, or the changes contradict each other or do not fit the model.
        CheckpointError: If the checkpoint is missing, damaged or not of these families.
        DataError: If images that a network from scratch is made for are damaged.
    """
    source, autoencoder = request.network, None if request.vae == PIXELS else request.vae
    asked = request.fresh.given
    if asked is None:
        network = open_network(source, vae=autoencoder)
        if request.vae == PIXELS and network.config.autoencoder is not None:
            raise ConfigError(f"{network.name} makes latents, not pixels", hint="name its autoencoder with --vae PATH")
        if autoencoder is None:
            network = with_autoencoder(network, None, source.download)
        origin = None if network.knows_stride else latent_origin(request.data_name)
        if origin is not None and origin.channels == network.config.in_channels:
            return _of_latents(network, origin, keeps_stride=False)
        return _with_statistics_of(network, request.data_name)
    if source.checkpoint is not None:
        raise ConfigError(
            f"both a checkpoint ({source.checkpoint}) and {asked} are given",
            hint="leave one out: sizes are for a network from scratch",
        )
    replace(source, family=None, heads=None).refuse_hints(f"{asked}: weights are drawn")
    config, side = _in_space(_sized(request), request)
    network = Network(
        name=preset_of(config) or config.family, config=config, fresh=partial(fresh_model, seed=request.training.seed)
    )
    network = with_autoencoder(network, autoencoder, source.download)
    if (origin := _latents(network, request)) is not None:
        network = _of_latents(network, origin, keeps_stride=autoencoder is not None)
        side = source.res or origin.side * network.config.latent_downsample
    placed = network.config.at_resolution(request.fresh.positions_res or side)
    sized = replace(network, config=placed.at_resolution(side, positions=source.positions or "interpolate"))
    return changed(sized, replace(source, res=None))


def _latents(network: Network, request: FinetuneRequest) -> LatentOrigin | None:
    """Return the data's latents; None if the data are images, or the network makes pixels.

    Raises:
        ConfigError: If `--channels` contradicts them.
    """
    origin = (
        None if network.config.autoencoder is None or request.data_name in BUNDLES else latent_origin(request.data_name)
    )
    asked = request.fresh.channels
    if origin is not None and asked not in (None, origin.channels):
        raise ConfigError(
            f"--channels {asked}, but the latents of {request.data_name} have {origin.channels}",
            hint="leave --channels out",
        )
    return origin


def _of_latents(network: Network, origin: LatentOrigin, *, keeps_stride: bool) -> Network:
    """Return a network for the latents of a folder; an autoencoder that was named has told the stride."""
    # Latents of `medcli latents` are stored as they are; the autoencoder's statistics normalise them.
    has_own = origin.statistics != NO_STATISTICS
    mean, std = origin.statistics if has_own else (network.config.latent_mean, network.config.latent_std)
    named = origin.autoencoder or (VAVAE if origin.channels == VAVAE_CHANNELS else network.config.autoencoder)
    config = replace(
        network.config,
        in_channels=origin.channels,
        latent_downsample=network.config.latent_downsample if keeps_stride else origin.stride,
        latent_scale=origin.scale,
        latent_shift=origin.shift,
        latent_mean=mean,
        latent_std=std,
        autoencoder=named,
    )
    return replace(network, config=config)


def _with_statistics_of(network: Network, data: str) -> Network:
    """Return a network whose checkpoint lacks the statistics of its latents with those of the data.

    Raises:
        CheckpointError: If the data have none either.
    """
    if network.info is None or not network.info.lacks_statistics or network.config.latent_mean:
        return network
    origin = latent_origin(data)
    if origin is None or origin.statistics == NO_STATISTICS or origin.channels != network.config.in_channels:
        require_statistics(network)
        return network
    mean, std = origin.statistics
    return replace(network, config=replace(network.config, latent_mean=mean, latent_std=std))


def with_classes(network: Network, num_classes: int) -> Network:
    """Return the same fresh network for another number of classes."""
    return replace(network, config=replace(network.config, num_classes=num_classes))


def _sized(request: FinetuneRequest) -> ModelConfig:
    """Return the architecture of a network from scratch, in the latent space of the published models."""
    fresh, heads = request.fresh, request.network.heads
    base: dict[str, Any] = {"family": request.network.family or "sit"}
    if fresh.preset is not None:
        config = preset_config(fresh.preset)
        base = asdict(config)
        if request.network.family not in (None, config.family):
            raise ConfigError(
                f"--preset {fresh.preset} is of family {config.family}, not {request.network.family}",
                hint="leave --family out",
            )
        if config.stage_depths and (fresh.width or fresh.depth or heads):
            raise ConfigError(
                "an EDT has a width, a depth and heads for each stage", hint="leave --width, --depth and --heads out"
            )
    if isinstance(heads, tuple):
        raise ConfigError("heads of stages belong to an EDT", hint="pass --heads H, one number")
    sizes = {"hidden_size": fresh.width, "depth": fresh.depth, "num_heads": heads}
    if missing := [name for name, value in sizes.items() if value is None and name not in base]:
        flags = {"hidden_size": "--width", "depth": "--depth", "num_heads": "--heads"}
        raise ConfigError(
            f"a network from scratch needs {' and '.join(flags[name] for name in missing)}",
            hint="or a size to start from: --preset SiT-S/2",
        )
    sizes |= {"patch_size": fresh.patch, "learn_sigma": fresh.learn_sigma}
    return ModelConfig(**{**base, **{name: value for name, value in sizes.items() if value is not None}})


def _in_space(config: ModelConfig, request: FinetuneRequest) -> tuple[ModelConfig, int]:
    """Return the network for latents, or for pixels where the data are grey or it is asked for; and the image side."""
    fresh, side = request.fresh, request.network.res
    if request.data_name in BUNDLES:
        channels, bundled_side, _ = bundled_set(request.data_name).shape_CYX
        return _of_pixels(config, _agreed_channels(fresh, channels, request.data_name)), side or bundled_side
    images = _images(request)
    if not _is_of_pixels(request, images):
        channels = fresh.channels or config.in_channels
        return replace(config, in_channels=channels), side or config.resolution_px
    found = GREY if images is not None and images.is_grey else None
    channels = _agreed_channels(fresh, found, request.data_name)
    side = side or (images.side_px if images else None)
    if side is None:
        raise ConfigError("a model of pixels needs its resolution", hint="add --res 32")
    return _of_pixels(config, channels), side


def _images(request: FinetuneRequest) -> PixelFormat | None:
    """Return the format of the data's images; None without images, or if an autoencoder is to encode them."""
    path = Path(request.data_name)
    return pixel_format(path) if path.exists() and request.vae in (None, PIXELS) else None


def _is_of_pixels(request: FinetuneRequest, images: PixelFormat | None) -> bool:
    """Return whether a network from scratch is one of pixels: `--vae none`, their channels, or grey images."""
    channels = request.fresh.channels
    if request.vae is not None:
        return request.vae == PIXELS
    return channels in PIXEL_CHANNELS or (channels is None and images is not None and images.is_grey)


def _agreed_channels(fresh: FreshNetwork, found: int | None, data: str) -> int:
    """Return the pixel channels that were asked for, else the data's, else colour.

    Raises:
        ConfigError: If the two differ.
    """
    asked = fresh.channels
    if None not in (asked, found) and asked != found:
        kind = "grey" if found == GREY else "in colour"
        raise ConfigError(f"--channels {asked}, but the images of {data} are {kind}", hint=f"use --channels {found}")
    if asked is not None and asked not in PIXEL_CHANNELS:
        raise ConfigError(f"--channels {asked}: pixels are grey (1) or colour (3)", hint="use --channels 1 or 3")
    return asked or found or COLOUR


def _of_pixels(config: ModelConfig, channels: int) -> ModelConfig:
    """Return the same network without an autoencoder: its latent is the image in [-1, 1]."""
    return replace(
        config, in_channels=channels, autoencoder=None, latent_scale=1.0, latent_shift=0.0, latent_downsample=1
    )


def remark_on_changes(network: Network, reporter: Reporter, *, is_calibrated: bool) -> None:
    """Report tensors that the changes have dropped or added."""
    info = network.info
    if info is None:
        return
    lost = [str(count) for count in info.config.mediators if count not in network.config.mediators]
    if lost:
        reporter.note(f"the tables for {', '.join(lost)} mediators of {network.name} are left out")
    num_new = len(set(network.surgery().new) - set(position_tables(network.config)))
    if num_new and not is_calibrated:
        reporter.note(f"{num_new} new tensors start neutral; --calibrate would fit them before training")


def remark_on_classes(data: TrainingSet, start: Network, reporter: Reporter) -> None:
    """Note classes of the model that have no images, and those that have another number in the data."""
    if start.info and (moved := renumbered(data.class_names, start.info.class_names)):
        name, (ours, theirs) = next(iter(moved.items()))
        reporter.note(
            f"{len(moved)} classes of {data.name} have other numbers in the model ({name}: {ours}, not {theirs}) and "
            "keep the data's; a labels.json can give them the model's"
        )
    if data.num_classes < start.config.num_classes:
        reporter.note(
            f"{data.name} has {data.num_classes} classes, the model {start.config.num_classes}: the others have no "
            f"images; --num-classes {data.num_classes} removes them"
        )

"""The network a fine-tuning run starts from: a checkpoint with its changes, or a preset with fresh weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from medcli.config import ModelConfig
from medcli.data.digits import DIGITS, digit_set
from medcli.errors import ConfigError
from medcli.model.backbone import fresh_model
from medcli.network import Network, changed, open_network, with_autoencoder
from medcli.presets import preset_config, preset_of
from medcli.runtime.reporting import Reporter
from medcli.settings.network import NetworkSource
from medcli.settings.training import PIXELS

COLOUR_CHANNELS = 3


def initial_network(
    source: NetworkSource, preset: str | None, *, seed: int, data: str, autoencoder: str | None
) -> Network:
    """Find the network a run starts from and apply its changes; no weights are read.

    Args:
        source: The checkpoint (default: the bundled model) and its changes.
        preset: A named size to train from scratch, instead of a checkpoint.
        seed: Random seed of fresh weights.
        data: Name of the data; the bundled digits need a model of their pixels.
        autoencoder: Value of `--vae`.

    Raises:
        ConfigError: If the preset is unknown, or the changes contradict each other or do not fit the model.
        CheckpointError: If the checkpoint is missing, damaged or not of these families.
    """
    if preset is None:
        network = open_network(source)
        if autoencoder == PIXELS and network.config.autoencoder is not None:
            raise ConfigError(f"{network.name} makes latents, not pixels", hint="name its autoencoder with --vae PATH")
        return with_autoencoder(network, None if autoencoder == PIXELS else autoencoder)
    if source.checkpoint is not None:
        raise ConfigError(
            f"both a checkpoint ({source.checkpoint}) and --preset {preset} are given",
            hint="leave one out: a preset is trained from scratch",
        )
    config, side = _scratch_config(preset, source.res, data, autoencoder)
    network = Network(name=preset_of(config) or preset, config=config, fresh=partial(fresh_model, seed=seed))
    network = with_autoencoder(network, None if autoencoder == PIXELS else autoencoder)
    sized = replace(network, config=network.config.at_resolution(side or config.resolution_px))
    return changed(sized, replace(source, res=None))


def with_classes(network: Network, num_classes: int) -> Network:
    """Return the same fresh network for another number of classes."""
    return replace(network, config=replace(network.config, num_classes=num_classes))


def _scratch_config(
    preset: str, resolution_px: int | None, data: str, autoencoder: str | None
) -> tuple[ModelConfig, int | None]:
    """Return a preset of latents, or of pixels for the digits and `--vae none`; and the image side, if it is known."""
    config = preset_config(preset)
    if data == DIGITS:
        channels, side, _ = digit_set().shape_CYX
        return _of_pixels(config, channels), resolution_px or side
    if autoencoder != PIXELS:
        return config, resolution_px
    if resolution_px is None:
        raise ConfigError("a model of pixels needs its resolution", hint="add --res 32")
    return _of_pixels(config, COLOUR_CHANNELS), resolution_px


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
    num_new = len(network.surgery().new)
    if num_new and not is_calibrated:
        reporter.note(f"{num_new} new tensors start neutral; --calibrate would fit them before training")

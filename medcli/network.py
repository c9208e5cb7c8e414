"""Find the network a command works on: one way from a `NetworkSource` to a configuration and a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.checkpoint.class_names import names_for
from medcli.checkpoint.fingerprint import fingerprint_of
from medcli.checkpoint.header import Header
from medcli.checkpoint.hub import asked_for, hub_title, local_path
from medcli.checkpoint.infer import Hints
from medcli.checkpoint.lightningdit import STATISTICS, read_statistics
from medcli.checkpoint.load import build_model
from medcli.checkpoint.reader import Checkpoint, CheckpointInfo, open_checkpoint
from medcli.checkpoint.surgery import Surgery, operate, target_config
from medcli.config import ModelConfig
from medcli.data.assets import BUNDLED_MODEL, asset_path, bundled_model
from medcli.data.latent_space import ALIASES, latent_space, statistics_beside
from medcli.errors import CheckpointError, ConfigError
from medcli.presets import means_preset, preset_config, preset_of
from medcli.runtime.files import file_sha256
from medcli.runtime.reporting import Reporter
from medcli.settings.network import NetworkSource

if TYPE_CHECKING:
    import torch

    from medcli.model.amm import Amm
    from medcli.model.backbone import DiffusionTransformer

LADDER_DEFAULTS = frozenset({"schedule", "mediators", "at", "rho", "warmup_steps", "distance"})
"""Sampling defaults that apply to one mediator ladder only."""

SMALL_FILE_BYTES = 16 * 2**20
"""Size up to which the whole file is hashed, too, which takes some hundredths of a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A network by its configuration and origin; weights are read or drawn by `load`."""

    name: str
    """File name of the checkpoint, or name of the preset."""
    config: ModelConfig
    """The architecture, with the changes its source asks for."""
    checkpoint: Checkpoint | None = None
    """The open checkpoint as it is on disk; None for a preset."""
    fresh: Callable[[ModelConfig], DiffusionTransformer] | None = None
    """Makes the weights of a preset; None for a checkpoint."""
    autoencoder: str | None = None
    """Autoencoder instead of the configuration's: `--vae`, or that of a pipeline folder."""

    @property
    def info(self) -> CheckpointInfo | None:
        """Description of the checkpoint as it is on disk; None for a preset."""
        return None if self.checkpoint is None else self.checkpoint.info

    @property
    def knows_stride(self) -> bool:
        """True if the stride of the latents is known from the checkpoint or an autoencoder."""
        return self.info is None or self.info.knows_stride or self.autoencoder is not None

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Sampling defaults of the checkpoint that still apply; thresholds belong to their ladder."""
        if self.info is None:
            return {}
        if self.config.mediators == self.info.config.mediators:
            return self.info.sampling
        return {name: value for name, value in self.info.sampling.items() if name not in LADDER_DEFAULTS}

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the checkpoint: its tensors, and the settings that do not follow from their shapes."""
        config, opened = self.opened.info.config, self.opened
        described = {
            "family": config.family,
            "num_heads": config.stage_heads or config.num_heads,
            "latent_size": config.latent_size,
            "num_classes": config.num_classes,
            **({"positions_side": config.positions_side} if config.positions_side else {}),
        }
        return fingerprint_of((record for name, record in opened.records.items() if name not in opened.made), described)

    def content_id(self, earlier: object = None) -> dict[str, str | None]:
        """Return the identity of the checkpoint's contents: its `fingerprint`, and the `sha256` of a small file.

        Args:
            earlier: The identity to be compared with. Runs of older versions recorded the `sha256` of files of any
                size and no fingerprint; for such a one, that is returned.
        """
        path = self.opened.info.path
        if isinstance(earlier, dict) and "sha256" in earlier and "fingerprint" not in earlier:
            return {"sha256": file_sha256(path)}
        is_small = path.is_file() and path.stat().st_size <= SMALL_FILE_BYTES
        return {"fingerprint": self.fingerprint, "sha256": file_sha256(path) if is_small else None}

    def identity(self, earlier: object = None) -> dict[str, str | None]:
        """Return the checkpoint's file name and `content_id`, as runs record them."""
        return {"file": self.opened.info.path.name, **self.content_id(earlier)}

    def surgery(self) -> Surgery:
        """Return the tensors of the changed network and where each came from; for checkpoints only."""
        opened = self.opened
        return operate(opened.records, opened.info.config, self.config, made=opened.made)

    def header(self) -> Header:
        """Return the header of a file this network is written to; for checkpoints only.

        The reference set is kept only if the network still makes the same kind of images.
        """
        info = self.opened.info
        is_same_task = _dense(self.config) == _dense(info.config)
        return Header(
            config=self.config,
            weights=info.weights,
            sampling=self.sampling,
            reference=info.reference if is_same_task else None,
            training=info.training,
            source={"name": info.path.name, "fingerprint": self.fingerprint},
            class_names=names_for(self.config.num_classes, info.class_names),
            knows_stride=self.knows_stride,
        )

    def load(
        self, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, amm: Amm | None = None
    ) -> DiffusionTransformer:
        """Build the model; see `medcli.checkpoint.load.build_model`.

        Args:
            dtype: Parameter type; None keeps the checkpoint's.
            amm: Attention modulation; None leaves attention alone.

        Raises:
            CheckpointError: If a weight is NaN or infinite.
            ConfigError: If the modulation does not fit the model.
        """
        if self.fresh is not None:
            return self.fresh(self.config).to(device=device, dtype=dtype)
        opened = self.opened
        records = opened.records if self.config == opened.info.config else self.surgery().records
        return build_model(self.config, records, self.name, device=device, dtype=dtype, amm=amm)

    @property
    def opened(self) -> Checkpoint:
        """The open checkpoint, of a network that is known to come from one."""
        if self.checkpoint is None:
            raise ValueError(f"{self.name} is a preset, which has no tensors")
        return self.checkpoint


def open_network(
    source: NetworkSource,
    *,
    default: str | Path | None = None,
    add_mediators: bool = False,
    fresh: Callable[[ModelConfig], DiffusionTransformer] | None = None,
    vae: str | None = None,
) -> Network:
    """Find a network and apply the changes its source asks for; no weights are read.

    Args:
        source: Checkpoint or preset, hints and changes.
        default: Checkpoint or preset if the source names none; None: the bundled model.
        add_mediators: Whether a network without mediators gets the default ladder when none is asked for.
        fresh: Makes the weights of a preset. Without it presets are not accepted: their names are read as paths.
        vae: Autoencoder of a checkpoint, see `with_autoencoder`; its stride counts for a change of resolution.

    Raises:
        ConfigError: If the preset is unknown, or the changes contradict each other or do not fit the model.
        CheckpointError: If the checkpoint is missing, damaged or not of a known family.
    """
    given = source.checkpoint or default or asset_path(BUNDLED_MODEL)
    bundled = bundled_model(str(given))
    if fresh is not None and bundled is None and isinstance(given, str) and means_preset(given):
        source.refuse_hints(f"the preset {given}")
        config = preset_config(given)
        network = Network(name=preset_of(config) or given, config=config, fresh=fresh)
    else:
        hints = Hints(
            family=source.family, num_heads=source.heads, num_classes=source.num_classes, resolution_px=source.res
        )
        place = bundled or local_path(given, source.download)
        opened = open_checkpoint(place, hints=hints, weights=source.weights)
        network = Network(name=hub_title(opened.info.path), config=opened.info.config, checkpoint=opened)
        network = with_autoencoder(network, vae, source.download) if vae is not None else network
    return changed(network, source, add_mediators=add_mediators)


def changed(network: Network, source: NetworkSource, *, add_mediators: bool = False) -> Network:
    """Apply the changes of a source to a network that is already open; see `open_network`.

    Raises:
        ConfigError: If the changes contradict each other or do not fit the model.
    """
    config = network.config
    if source.res is not None and not network.knows_stride:
        raise ConfigError(
            f"--res {source.res}: the stride of the {config.in_channels}-channel latents of {network.name} is unknown",
            hint="name their autoencoder: --vae PATH, of medcli convert",
        )
    target = target_config(
        config,
        mediators=source.mediators,
        layers=source.layers_of(config.depth),
        resolution_px=source.res,
        num_classes=source.num_classes,
        positions=source.positions or "interpolate",
        add_mediators=add_mediators,
    )
    return replace(network, config=target)


def with_autoencoder(network: Network, vae: str | None, download: bool = False) -> Network:
    """Return a network that makes latents of the autoencoder it is used with.

    A medcli checkpoint names the latents it was trained on, and another autoencoder is refused when it is opened.
    Other checkpoints do not, so scale, shift and stride are the autoencoder's, and of a preset its channels, too.

    Args:
        vae: Value of `--vae`; None: the autoencoder of a pipeline folder, else the configuration's.
        download: Download an autoencoder of the hub that is not in the cache.

    Raises:
        ConfigError: If the network makes pixels, or latents of other channels.
        EnvironmentProblem: If the autoencoder is not on this machine.
    """
    info, config = network.info, network.config
    if config.autoencoder is None:
        if vae is not None:
            raise ConfigError("this model makes pixels, not latents", hint="leave --vae out")
        return network
    if vae is None and info is not None and info.autoencoder_folder is not None:
        vae = str(info.autoencoder_folder)
    if vae is None and download:
        vae = config.autoencoder
    if vae is None:
        return network
    vae = asked_for(ALIASES.get(vae, vae) if download else vae, download)
    if info is None or not info.knows_latents:
        space = latent_space(vae)
        if info is not None and space.channels != config.in_channels:
            raise ConfigError(
                f"the autoencoder {vae} has {space.channels} channels at stride {space.stride}, "
                f"the model {config.in_channels}",
                hint="pass the model's own autoencoder with --vae PATH",
            )
        config = replace(
            config,
            latent_scale=config.latent_scale if space.scale is None else space.scale,
            latent_shift=config.latent_shift if space.shift is None else space.shift,
            latent_downsample=space.stride,
            in_channels=config.in_channels if info else space.channels,
        )
    if (info is None or info.lacks_statistics) and (file := statistics_beside(vae)) is not None:
        mean, std = read_statistics(file, config.in_channels)
        config = replace(config, latent_mean=mean, latent_std=std)
    return replace(network, config=config, autoencoder=vae)


def require_statistics(network: Network) -> None:
    """Refuse to encode or decode latents that were normalised by missing statistics.

    Raises:
        CheckpointError: If they are missing.
    """
    if network.info is not None and network.info.lacks_statistics and not network.config.latent_mean:
        raise CheckpointError(
            f"the latents of {network.name} were normalised by {STATISTICS}, which is missing",
            hint="put that file of its training data beside the checkpoint or the autoencoder",
        )


def note_remarks(networks: Iterable[Network], reporter: Reporter) -> None:
    """Report remarks on checkpoints, such as tensors that were left out."""
    for network in networks:
        for remark in network.info.remarks if network.info else ():
            reporter.note(f"{network.name}: {remark}")


def identities(networks: Sequence[Network], earlier: object = None) -> list[dict[str, str | None]]:
    """Return the identities of several checkpoints; see `Network.identity`.

    Args:
        earlier: A list of records to be compared with, if there is one.
    """
    before = list(earlier) if isinstance(earlier, list) and len(earlier) == len(networks) else [None] * len(networks)
    return [network.identity(record) for network, record in zip(networks, before, strict=True)]


def _dense(config: ModelConfig) -> ModelConfig:
    """Return the same network without mediators."""
    return replace(config, mediators=(), mediator_layers=())

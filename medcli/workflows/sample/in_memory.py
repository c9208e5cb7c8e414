"""Sample a model that is in memory: what `medcli.sample` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medcli.checkpoint.reader import Checkpoint
from medcli.data.autoencoder import open_decoder
from medcli.engine.generate import generate
from medcli.engine.networks import ladder_networks
from medcli.engine.plan import Noise, philox_noise
from medcli.errors import ConfigError
from medcli.network import Network, require_statistics, with_autoencoder
from medcli.settings.build import build
from medcli.settings.config_file import unknown_setting
from medcli.settings.declare import settings_of
from medcli.settings.sampling import SampleRequest
from medcli.settings.values import from_json
from medcli.workflows.sample.plan import default_batch_size, make_plan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from medcli.model.backbone import DiffusionTransformer

# Dimension key: N images, C channels, Y X height and width, B images of a batch.

NOT_OF_A_MODEL = frozenset(
    ("checkpoint", "family", "heads", "weights", "stage", "output", "npz", "latents", "save_plan", "device", "dtype")
    + ("amm", "amm_blocks", "amm_form", "num_images", "classes", "seed", "shard", "dry_run")
)
"""Settings of the command that are arguments here, or that a model in memory has no use for."""


def sample_in_memory(
    model: DiffusionTransformer,
    *,
    num_images: int,
    classes: int | str | Sequence[int | str] | None,
    seed: int,
    noise: Tensor | Noise | None,
    decode: bool,
    settings: Mapping[str, Any],
) -> npt.NDArray[np.uint8] | Tensor:
    """Sample images or latents; see `medcli.sample`.

    Raises:
        ConfigError: If a setting is unknown or does not fit the model, or the noise is of another shape.
        EnvironmentProblem: If images are decoded and the autoencoder is not on this machine.
    """
    if isinstance(noise, Tensor):
        num_images = _checked(noise, model)
    network = Network(
        name="the model",
        config=model.config,
        checkpoint=None if model.origin is None else Checkpoint(model.origin, {}, ()),
    )
    request = _request(settings, num_images=num_images, classes=classes, seed=seed)
    network = with_autoencoder(network, request.vae)
    device = model.pos_embed.device
    batch_size = request.batch_size or min(num_images, default_batch_size(network.config, device.type))
    plan = make_plan(request, (network,), network.config.mediators, batch_size)
    if decode:
        require_statistics(network)
        decoder = open_decoder(network.config, autoencoder=network.autoencoder, device=device)
    networks = ladder_networks(model, plan.schedule.counts, compiled=request.compiled)
    source = _replayed(noise, philox_noise(seed, _shape(model))) if isinstance(noise, Tensor) else noise
    images = generate(networks, plan, range(num_images), device=device, noise=source)
    made = {image.index: image.latent_CYX for image in images}
    latents_NCYX = torch.stack([made[index] for index in range(num_images)]).float().cpu()
    if not decode:
        return latents_NCYX
    pictures = [decoder.decode(part.to(device)) for part in latents_NCYX.split(decoder.batch_size)]
    images_NYXC: npt.NDArray[np.uint8] = torch.cat(pictures).numpy()
    return images_NYXC


def _shape(model: DiffusionTransformer) -> tuple[int, int, int]:
    config = model.config
    return config.in_channels, config.latent_size, config.latent_size


def _checked(noise_NCYX: Tensor, model: DiffusionTransformer) -> int:
    """Return the number of initial states.

    Raises:
        ConfigError: If they are not of the model's shape.
    """
    if tuple(noise_NCYX.shape[1:]) != _shape(model) or not len(noise_NCYX):
        wanted = ", ".join(map(str, _shape(model)))
        raise ConfigError(f"noise of shape {tuple(noise_NCYX.shape)} does not fit a model of (N, {wanted})")
    return len(noise_NCYX)


def _replayed(start_NCYX: Tensor, drawn: Noise) -> Noise:
    """Return noise whose initial states are given; later draws are the seed's."""

    def noise(index_B: Tensor, draw_B: Tensor) -> Tensor:
        # An adaptive solver integrates whole groups, of which the last may be longer than the noise.
        kept_B = index_B.clamp(max=len(start_NCYX) - 1)
        start_BCYX = start_NCYX.to(device=index_B.device, dtype=torch.float32)[kept_B]
        if not draw_B.any():
            return start_BCYX
        return torch.where((draw_B == 0)[:, None, None, None], start_BCYX, drawn(index_B, draw_B))

    return noise


def _request(
    settings: Mapping[str, Any], *, num_images: int, classes: int | str | Sequence[int | str] | None, seed: int
) -> SampleRequest:
    """Build the command's request from keyword arguments.

    Raises:
        ConfigError: If a name is unknown, or a value is none of the setting's.
    """
    declared = {key: made for key, made in settings_of(SampleRequest).items() if key not in NOT_OF_A_MODEL}
    given: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in declared:
            raise unknown_setting(key, declared, "medcli.sample")
        if value is not None:
            given[key] = from_json(declared[key], value, key)
    whole = settings_of(SampleRequest)
    given |= {"num_images": from_json(whole["num_images"], num_images), "seed": from_json(whole["seed"], seed)}
    if classes is not None:
        several = [classes] if isinstance(classes, int | str) else classes
        listed = [label if isinstance(label, str) else int(label) for label in several]
        if len(listed) not in (1, num_images):
            raise ConfigError(f"{len(listed)} classes for {num_images} images", hint="give one, or one an image")
        given["classes"] = tuple(listed)
    return build(SampleRequest, given)

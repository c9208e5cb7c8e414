"""The metric that candidates are judged by, and why: a score where there is one, else the error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from medcli.data.autoencoder import Decoder, open_decoder
from medcli.data.image_source import ImageArray
from medcli.errors import ConfigError, MedcliError
from medcli.runtime.precision import DTYPES
from medcli.runtime.reporting import Reporter, Silent
from medcli.scores.extractor import POOL
from medcli.scores.standard_error import Estimate
from medcli.settings.scoring import FeatureOptions, ScoreRequest
from medcli.workflows.fid.features import load_feature_computer
from medcli.workflows.fid.inputs import Side, extractor_name, survey_reference
from medcli.workflows.fid.scoring import Yardstick, load_yardstick, measure
from medcli.workflows.tune.setup import TuneSetup

ENOUGH_PER_FEATURE = 4
"""Images for each of the extractor's dimensions from which `--metric auto` trusts FID: 256 of digits, 8,192 of
Inception."""


@dataclass(frozen=True, slots=True)
class Judge:
    """The metric and, for a score, what it needs."""

    metric: Literal["error", "fid"]
    reason: str
    """Why this metric, for people."""
    decoder: Decoder | None = None
    yardstick: Yardstick | None = None

    @property
    def identity(self) -> dict[str, Any] | None:
        """Reference, extractor, protocol and autoencoder by content, by which kept scores are known; None: no score."""
        if self.yardstick is None or self.decoder is None:
            return None
        return {**self.yardstick.protocol, "autoencoder_id": self.decoder.content_id}

    def score(self, latent_ICYX: torch.Tensor, device: torch.device) -> Estimate | None:
        """Return the FID of images; None if they are judged by the error."""
        if self.yardstick is None or self.decoder is None:
            return None
        source = ImageArray.of("samples", decoded(self.decoder, latent_ICYX, device))
        return measure(self.yardstick, Side(name="samples", source=source), Silent()).scores.estimates["fid"]


def decoded(decoder: Decoder, latent_ICYX: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the (I, Y, X, 3) uint8 pictures of latents."""
    pictures = []
    for part_BCYX in latent_ICYX.to(device).split(decoder.batch_size):
        padding = part_BCYX[:1].expand(decoder.batch_size - len(part_BCYX), -1, -1, -1)
        pictures.append(decoder.decode(torch.cat([part_BCYX, padding]))[: len(part_BCYX)])
    return torch.cat(pictures)


def decoder_of(setup: TuneSetup) -> Decoder:
    """Open what makes pictures of the model's latents.

    Raises:
        MedcliError: If it is not on this machine, or does not fit.
    """
    dtype = DTYPES[setup.request.sampling.dtype]
    return open_decoder(setup.config, autoencoder=setup.network.autoencoder, device=setup.device, dtype=dtype)


def choose_judge(setup: TuneSetup, reporter: Reporter) -> Judge:
    """Choose the metric and open what it needs.

    Raises:
        MedcliError: If a score is asked for by name and something it needs is missing.
    """
    request, asked = setup.request, setup.request.metric
    if asked == "error":
        return _judge_by_error(setup, "as asked")
    if setup.reference is None:
        if asked == "auto":
            return _judge_by_error(setup, "the checkpoint names no reference of FID (--reference)")
        raise ConfigError(
            "--metric fid needs a reference, and this checkpoint names none",
            hint="add --reference with a folder, an npz or a bundled name",
        )
    try:
        return _judge_by_fid(setup, setup.reference, reporter)
    except MedcliError as err:
        # What was named by a flag must be there.
        if asked == "fid" or request.reference is not None or request.features.extractor is not None:
            raise
        return _judge_by_error(setup, f"FID can't be had: {err.message}")


def _judge_by_error(setup: TuneSetup, reason: str) -> Judge:
    """Judge by the error.

    Raises:
        ConfigError: If there are no exact images.
    """
    if setup.exact is None:
        raise ConfigError(
            f"images of --sampler {setup.few.sampler.sampler} have other noise at other steps: no error can be told",
            hint="fix the steps with --steps, or judge by FID: --metric fid, --num-images 256 or more",
        )
    return Judge("error", reason)


def _judge_by_fid(setup: TuneSetup, name: str, reporter: Reporter) -> Judge:
    """Open extractor, reference and decoder, unless `auto` finds too few images for them."""
    options, is_asked, num_images = setup.request.features, setup.request.metric == "fid", len(setup.numbers)
    options = FeatureOptions(
        extractor=options.extractor, extractor_weights=options.extractor_weights, no_cache=True, num_workers=1
    )
    reference = survey_reference(name)
    samples = (Path(), Side(name="samples"))
    computer = load_feature_computer(options, extractor_name(options.extractor, reference, samples[0]), reporter)
    width = computer.extractor.dims[POOL]
    if num_images < ENOUGH_PER_FEATURE * width and not is_asked:
        reason = f"{num_images} images are too few for FID: --num-images {ENOUGH_PER_FEATURE * width} are judged by it"
        return _judge_by_error(setup, reason)
    if num_images <= width:
        reporter.warn(
            f"{num_images} images are fewer than the {width} dimensions of the features: FID reads "
            "far too high, and tells little; raise --num-images"
        )
    decoder = decoder_of(setup)
    yardstick = load_yardstick(ScoreRequest(metrics=("fid",), features=options), reference, [samples], reporter)
    return Judge("fid", f"against {name} with {yardstick.extractor.name}", decoder, yardstick)

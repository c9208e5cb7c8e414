"""Say what a checkpoint is, without building it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcli.checkpoint.reader import CheckpointInfo, describe
from medcli.cost.macs import closed_form_macs

FAMILY_SETTINGS = ("stage_depths", "stage_widths", "stage_heads", "decoder_depth")
"""Shown where a family has them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectRequest:
    """Which checkpoint, and what it can't tell by itself."""

    source: Path
    """A checkpoint file or a diffusers folder."""
    family: str | None = None
    """`dit` or `sit`, where neither the file's contents nor its name tells."""
    num_heads: int | None = None
    """Attention heads, where the width is not a preset's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectReport:
    """What a checkpoint is and costs."""

    info: CheckpointInfo
    gmacs: float
    """Multiply-adds of one forward pass of one image, 10^9; with mediators, at the ladder's largest count."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: the keys of the contract, then stages or decoder of a family that has them."""
        config = self.info.config
        return {
            "family": config.family,
            "preset": self.info.preset,
            "layout": self.info.layout,
            "resolution_px": config.resolution_px,
            "latent_size": config.latent_size,
            "patch_size": config.patch_size,
            "hidden_size": config.hidden_size,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "num_classes": config.num_classes,
            "learn_sigma": config.learn_sigma,
            "num_params": self.info.num_params,
            "mediators": list(config.mediators),
            "mediator_layers": list(config.mediator_layers),
            "weights_available": list(self.info.weights_available),
            "autoencoder": config.autoencoder,
            "gmacs": self.gmacs,
            **{name: config.to_json()[name] for name in FAMILY_SETTINGS if getattr(config, name)},
        }


def inspect(request: InspectRequest) -> InspectReport:
    """Recognise a checkpoint and check that all of its model is there; no weights are read.

    Raises:
        CheckpointError: If it is missing, damaged, ambiguous or not a model of these families.
    """
    info = describe(request.source, family=request.family, num_heads=request.num_heads, weights=None)
    return InspectReport(info=info, gmacs=closed_form_macs(info.config) / 1e9)

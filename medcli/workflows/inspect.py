"""Describe a checkpoint without building its model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from medcli.checkpoint.reader import CheckpointInfo
from medcli.config import SD_AUTOENCODER, SD_CHANNELS
from medcli.cost.macs import closed_form_macs
from medcli.network import open_network
from medcli.runtime.json_records import json_fields
from medcli.settings.network import NetworkSource

SIZES = (
    *("family", "resolution_px", "latent_size", "patch_size", "hidden_size", "depth", "num_heads", "num_classes"),
    *("learn_sigma", "mediators", "mediator_layers"),
)
"""Fields of every network that are shown."""
FAMILY_SETTINGS = ("stage_depths", "stage_widths", "stage_heads", "decoder_depth")
"""Fields shown for families that have them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectReport:
    """Description and cost of a checkpoint."""

    info: CheckpointInfo
    gmacs: float
    """Multiply-adds of one forward pass of one image, 10^9; with mediators, at the ladder's largest count."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; stages or decoder only for families that have them."""
        config = self.info.config
        named = ("class_names",) if self.info.class_names else ()
        return {
            **json_fields(config, *SIZES),
            **json_fields(self.info, "preset", "layout", "num_params", "weights_available", *named),
            "autoencoder": None if self._is_unknown else config.autoencoder,
            "gmacs": self.gmacs,
            **{name: config.to_json()[name] for name in FAMILY_SETTINGS if getattr(config, name)},
            **({"sampling": self._trained_for} if self.info.training.get("args") else {}),
            **({"remarks": list(self.info.remarks)} if self.info.remarks else {}),
        }

    @property
    def _trained_for(self) -> dict[str, Any]:
        """Sampling settings of the training file, known or not."""
        return {**self.info.sampling, **self.info.unknown_sampling}

    @property
    def _is_unknown(self) -> bool:
        """True if the latents are not those of the default autoencoder, which has four channels."""
        return self.info.config.autoencoder == SD_AUTOENCODER and self.info.config.in_channels != SD_CHANNELS


def inspect(source: NetworkSource) -> InspectReport:
    """Describe a checkpoint and check that its model is complete; no weights are read.

    Raises:
        CheckpointError: If it is missing, damaged, ambiguous or not a model of these families.
    """
    info = open_network(replace(source, weights=None)).opened.info
    return InspectReport(info=info, gmacs=closed_form_macs(info.config) / 1e9)

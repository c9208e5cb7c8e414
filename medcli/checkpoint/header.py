"""The metadata key of medcli checkpoints: a JSON object from which a model is rebuilt without flags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medcli.config import ModelConfig
from medcli.errors import CheckpointError, ConfigError
from medcli.runtime.json_records import parse_json
from medcli.version import __version__

KEY = "medcli"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata of a medcli checkpoint."""

    config: ModelConfig
    weights: str
    """`ema` or `model`: which set of the source this is."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Default sampler and schedule by option name; empty: the family's defaults."""
    reference: str | None = None
    """Name of the bundled reference set its samples are scored against."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Training settings and history, for people; empty if not trained by medcli."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """Name and fingerprint of the checkpoint this one was converted from; empty for a trained or new model."""
    class_names: tuple[str, ...] = ()
    """Name of each class; empty if they have none."""
    knows_stride: bool = True
    """False: the stride of its latents is a guess, which `--vae` corrects."""

    def to_metadata(self) -> dict[str, str]:
        """Return the safetensors metadata: one key, because the library writes several in random order."""
        values = {
            "format_version": FORMAT_VERSION,
            "medcli_version": __version__,
            "config": self.config.to_json(),
            "weights": self.weights,
            "sampling": dict(self.sampling),
            "reference": self.reference,
            "training": dict(self.training),
            **({"source": dict(self.source)} if self.source else {}),
            **({"class_names": list(self.class_names)} if self.class_names else {}),
            **({} if self.knows_stride else {"knows_stride": False}),
        }
        return {KEY: json.dumps(values, sort_keys=True, separators=(",", ":"))}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], source: str) -> Header | None:
        """Read the metadata key; None if the file has none.

        Raises:
            CheckpointError: If the key is there and is not what we write.
        """
        if KEY not in metadata:
            return None
        try:
            values = parse_json(metadata[KEY])
            if isinstance(values, dict) and "config" not in values:
                raise CheckpointError(
                    f"{source} is a medcli file that holds no diffusion model", hint="name a converted checkpoint"
                )
            version = values["format_version"]
            if version != FORMAT_VERSION:
                raise CheckpointError(
                    f"{source} has header version {version}, expected {FORMAT_VERSION}", hint="use a newer medcli"
                )
            config = ModelConfig.from_json(values["config"])
            return cls(
                config=config,
                weights=str(values["weights"]),
                sampling=dict(values["sampling"]),
                reference=None if values["reference"] is None else str(values["reference"]),
                training=dict(values["training"]),
                source=dict(values.get("source", {})),
                class_names=_class_names(values.get("class_names", []), config.num_classes),
                knows_stride=values.get("knows_stride", True) is not False,
            )
        except ConfigError as err:
            raise CheckpointError(f"{source}: {err.message}", hint=err.hint or "convert the original again") from err
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise CheckpointError(
                f"{source} has a damaged medcli header ({type(err).__name__}: {err})", hint="convert the original again"
            ) from err


def _class_names(values: Any, num_classes: int) -> tuple[str, ...]:
    """Return the class names of a header.

    Raises:
        ValueError: If they are no texts, or there are some but not one for each class.
    """
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise ValueError("class_names is no list of texts")
    if values and len(values) != num_classes:
        raise ValueError(f"{len(values)} class names for {num_classes} classes")
    return tuple(values)

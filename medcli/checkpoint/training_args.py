"""Training settings that a checkpoint carries beside its weights, and what they say about the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from medcli.checkpoint.pickle_values import Inert
from medcli.settings.sampler import PathName, PredictionName

SOURCES = (
    *("args", "config", "cfg", "hyper_parameters", "hparams", "opts", "options", "flags", "settings"),
    *("train_args", "training_args", "train_config", "model_config"),
)
"""Keys under which training scripts keep their settings."""
KEPT = (
    *("model", "path_type", "prediction", "loss_weight", "image_size", "resolution", "num_classes"),
    *("class_dropout_prob", "vae", "interpolant", "model_type", "latent_norm", "use_lognorm", "use_cosine_loss"),
)
"""Settings that say something about the model; they are kept in the headers of conversions."""
REPA_SETTINGS = frozenset({"enc_type", "proj_coeff", "encoder_depth"})
MAX_DEPTH = 8
AUTOENCODERS = {name: f"stabilityai/sd-vae-ft-{name}" for name in ("ema", "mse")}
"""Values of `vae` in the DiT and SiT code."""
VALUES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "path_type": ("path", get_args(PathName)),
    "prediction": ("prediction", get_args(PredictionName)),
}
"""Sampling settings by their names in SiT's training code, with the values that are known."""


def training_args(content: Any) -> dict[str, Any]:
    """Return the settings in a training file: plain values by name, outer ones before nested ones.

    Of `VALUES`, what is no text is kept as a text, and of several that differ all, so that it is found to be unknown.
    """
    if not isinstance(content, Mapping):
        return {}
    found: dict[str, Any] = {}
    beside = {name: content[name] for name in KEPT if _plain(content.get(name)) is not None}
    level: list[Any] = [content[key] for key in SOURCES if key in content] + [beside]
    for _ in range(MAX_DEPTH):
        following: list[Any] = []
        for value in level:
            for name, inner in _items(value):
                plain = _plain(inner)
                if isinstance(name, str) and (key := name.replace("-", "_")) in VALUES and inner is not None:
                    found[key] = _agreed(found.get(key), str(inner if plain is None else plain))
                elif plain is None:
                    following.append(inner)
                elif isinstance(name, str):
                    found.setdefault(key, plain)
        level = following
    return found


def _agreed(held: str | None, value: str) -> str:
    """Return the value of a setting found once more."""
    return value if held is None or held.lower() == value.lower() else f"{held} and {value}"


def _items(value: Any) -> list[tuple[Any, Any]]:
    settings = value.settings if isinstance(value, Inert) else value
    if not isinstance(settings, Mapping):
        return []
    content = settings.get("_content")  # of a node of OmegaConf
    return list((content if isinstance(content, Mapping) else settings).items())


def _plain(value: Any) -> str | int | float | bool | None:
    """Return a plain value, a path or ASCII bytes as text; None for anything else."""
    if isinstance(value, Inert) and "_val" in value.settings:
        value = value.settings["_val"]
    if isinstance(value, Inert) and value.kind.startswith("pathlib"):
        return "/".join(part for part in value.args if isinstance(part, str))
    if isinstance(value, Inert) and not value.settings and len(value.args) == 1:  # such as a member of an Enum
        value = value.args[0]
    if isinstance(value, bytes) and value.isascii():
        return value.decode()
    return value if isinstance(value, str | int | float | bool) else None


def kept_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings that say something about the model."""
    return {name: args[name] for name in KEPT if name in args}


def named_family(text: object) -> str | None:
    """Return the one of `sit` and `dit` that a name contains as a word; None for neither or both."""
    if not isinstance(text, str):
        return None
    words = set(re.findall(r"(?<![a-z])(sit|dit)(?![a-z])", text.lower()))
    return words.pop() if len(words) == 1 else None


def sampling_args(args: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sampling settings of a SiT by name: known values, and values that are not known."""
    known: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    for name, (setting, values) in VALUES.items():
        if name in args:
            value = args[name].lower() if isinstance(args[name], str) else args[name]
            (known if value in values else unknown)[setting] = value
    return known, unknown


def is_repa(args: Mapping[str, Any]) -> bool:
    """Check for the settings of REPA's training script."""
    names = (args.get("path_type"), args.get("prediction"))
    return bool(REPA_SETTINGS & set(args)) or names == ("cosine", "v")

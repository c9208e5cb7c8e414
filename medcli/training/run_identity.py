"""Identity of a run: the settings that a resumed run must not change, and the comparison of two runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from medcli.data.training_set import TrainingSet
from medcli.model.backbone import DiffusionTransformer
from medcli.training.config import TrainConfig

Changes = dict[str, tuple[Any, Any]]
"""Settings that differ, by name, with their old and new values."""

DATA, MODEL, TRAINED = "data", "model", "choice of trained parameters"
FIXED_SETTINGS = frozenset({MODEL, TRAINED, "optimizer"})
"""Settings without which weights and moments can't be continued."""
UNNAMED = {"optimizer": "adamw", "way to draw timesteps": "even", "flips": True}
"""Values of settings that a run does not record."""
SHOWN_NAMES = {"entries": "mediator counts"}
"""Names in messages that differ from those in files."""
MAX_SHOWN, MAX_TEXT = 3, 40
"""Settings named in a message, and characters of a value."""


def identity_of(
    model: DiffusionTransformer, data: TrainingSet, config: TrainConfig, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings that a resumed run must not change, by the names used in messages."""
    trained = sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {
        **config.fixed(),
        MODEL: model.config.to_json(),
        DATA: {"name": data.name, "fingerprint": data.fingerprint},
        TRAINED: hashlib.sha256("\n".join(trained).encode()).hexdigest(),
        **more,
    }


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Compare the identities of two runs; data are compared by content, not by the name or path they were given by."""
    old, new = (_flat(settings) for settings in (before, json.loads(json.dumps(now))))
    return {key: (old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


def fixed_changes(changes: Changes) -> Changes:
    """Return the changes without which weights and moments can't be continued."""
    return {key: pair for key, pair in changes.items() if key.split(".")[0] in FIXED_SETTINGS}


def changes_text(changes: Changes) -> str:
    """Describe changed settings: `lr 0.0001, not 5e-05; other data`."""
    parts = dict.fromkeys(_change_text(key, *pair) for key, pair in changes.items())
    shown = list(parts)[:MAX_SHOWN] + ([f"and {len(parts) - MAX_SHOWN} more"] if len(parts) > MAX_SHOWN else [])
    return "; ".join(shown)


def _change_text(key: str, old: Any, new: Any) -> str:
    name = SHOWN_NAMES.get(key, key.replace("_", " ").replace(".", " ")).removeprefix("set of ")
    texts = [_value_text(value) for value in (old, new)]
    if None in texts:
        return f"other {name.removesuffix(' fingerprint').removesuffix(' sha256')}"
    return f"{name} {texts[0]}, not {texts[1]}"


def _value_text(value: Any) -> str | None:
    """Short text of a value; None for hashes and long values, which tell a reader nothing."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    text = (",".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
    return text if len(text) < MAX_TEXT else None


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten settings by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in {**UNNAMED, **settings}.items():
        if key == DATA and isinstance(value, dict):
            flat[key] = value.get("fingerprint")
        elif isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat

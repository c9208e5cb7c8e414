"""Commands that repeat what a page shows, from the records of the runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcli.data.assets import BUNDLED_MODEL
from medcli.errors import ConfigError
from medcli.network import open_network
from medcli.settings.analysis import AnalyzeRequest
from medcli.settings.network import NetworkSource
from medcli.settings.records import image_values, manifest_values, repeated_command
from medcli.settings.sampling import SampleRequest
from medcli.workflows.report.json_access import Json, number, text


def sample_command(folder: str, manifest: Json) -> str | None:
    """Return the `medcli sample` command of a folder; None if its manifest has other values than this version writes.

    Args:
        folder: Name of the folder.
    """
    try:
        values = manifest_values(manifest, Path(folder))
        if values is None:
            return None
        values = _without_bundled(values, manifest["settings"])
        return repeated_command("sample", SampleRequest, {**values, "output": folder})
    except ConfigError:
        return None


def analyze_command(folder: str, found: Json) -> str | None:
    """Return the `medcli analyze` command of an analysis; None if it has other values than this version writes.

    Args:
        folder: Folder of the analysis.
        found: Content of `analysis.json`.
    """
    try:
        settings, change = found["settings"], found["latent_change"]
        values = _without_bundled(image_values(settings, found.get("given")), settings)
        thresholds = next(iter(change["distances"].values()))["thresholds"]
        own: dict[str, Any] = {"rho": [row["rho"] for row in thresholds], "warmup_steps": change["warmup_steps"]}
        own |= {"points": len(found["steps"]), "pairs": settings["max_pairs"]} if "steps" in found else {}
        own |= {} if "steps" in found else {"attention": False}
        values = {**values, **own, "num_images": found.get("num_images"), "output": folder}
        return repeated_command("analyze", AnalyzeRequest, values)
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration, ConfigError):
        return None


def _without_bundled(values: Mapping[str, Any], settings: Json) -> Mapping[str, Any]:
    """Leave out the name of the bundled model, if a record was made with that of this installation."""
    recorded = settings["checkpoints"][0]
    is_bundled = values.get("checkpoint") == BUNDLED_MODEL and _bundled_identity(recorded) == recorded
    return {key: value for key, value in values.items() if key != "checkpoint"} if is_bundled else values


def _bundled_identity(recorded: Json) -> Json:
    return open_network(NetworkSource()).identity(recorded)


def fid_commands(rows: Sequence[Json]) -> tuple[str, ...]:
    """Return a `medcli fid` command for all reports with the same reference, extractor and number of samples."""
    groups: dict[tuple[str, str, float | None], list[str]] = {}
    for row in rows:
        key = (text(row.get("reference")), text(row.get("extractor")), number(row.get("num_samples")))
        groups.setdefault(key, []).append(text(row.get("samples")))
    return tuple(_fid(key, list(dict.fromkeys(samples))) for key, samples in groups.items())


def _fid(shared: tuple[str, str, float | None], samples: list[str]) -> str:
    reference, extractor, num = shared
    words = [*samples, reference] if len(samples) == 1 else ["--compare", *samples, "--reference", reference]
    words += ["--extractor", extractor, *(["--num-images", f"{num:.0f}"] if num is not None and num >= 2 else [])]
    return shlex.join(["medcli", "fid", *words, "--json"])

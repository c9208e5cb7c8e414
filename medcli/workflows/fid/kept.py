"""Scores kept beside the samples they belong to, in the sample folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcli.data.images import MANIFEST
from medcli.errors import ConfigError, DataError, EnvironmentProblem
from medcli.runtime.files import write_text
from medcli.runtime.reporting import Reporter
from medcli.workflows.fid.compare import BY_METRIC, read_reports

SCORES = "scores.json"
"""File in a sample folder with its scores, in the form of `medcli fid --compare --json`."""
HASHES = ("samples_sha256", "reference_sha256", "reference_images_sha256", "extractor_sha256")
Row = dict[str, Any]


def keep_scores(row: Row, reporter: Reporter) -> None:
    """Keep scores of a sample folder of `medcli sample` in it; a set of another origin is left alone.

    Scores of the same images against the same reference are merged; those of other images replace the earlier ones.
    A folder that can't be written gives a remark.

    Args:
        row: As returned by `FidReport.to_json`.
    """
    folder = scored_folder(row["samples"])
    if not (folder / MANIFEST).is_file():
        return
    try:
        earlier = read_reports(folder / SCORES) if (folder / SCORES).exists() else []
        json.dumps(earlier, allow_nan=False)
    except (DataError, EnvironmentProblem, ValueError):
        earlier = []  # written anew
    same = next((one for one in earlier if _rests_on(one) == _rests_on(row)), {})
    others = [one for one in earlier if _name(one) != _name(row)]
    content = json.dumps({"rows": [*others, _merged(same, row)]}, indent=2, sort_keys=True, allow_nan=False)
    try:
        write_text(folder / SCORES, content + "\n", force=True)
    except (ConfigError, EnvironmentProblem) as err:
        reporter.warn(f"the scores are not kept beside the samples: {err.message}")


def kept_scores(folder: Path) -> list[Row]:
    """Return the scores in a sample folder, under the name the folder has now.

    Raises:
        DataError: If the file is damaged.
    """
    path = folder / SCORES
    return [{**row, "samples": str(folder)} for row in read_reports(path)] if path.is_file() else []


def scored_folder(samples: str) -> Path:
    """Return the folder that holds scored images, or their archive."""
    path = Path(samples)
    return path.parent if path.suffix.lower() == ".npz" else path


def _rests_on(row: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what decides all scores of a report."""
    provenance = row.get("provenance")
    hashes = [provenance.get(key) if isinstance(provenance, Mapping) else None for key in HASHES]
    return (*_name(row), row.get("protocol"), json.dumps(row.get("protocol_details"), sort_keys=True), *hashes)


def _name(row: Mapping[str, Any]) -> tuple[object, ...]:
    return row.get("reference"), row.get("extractor"), row.get("num_samples")


def _merged(earlier: Mapping[str, Any], row: Row) -> Row:
    parts = {key: {**earlier.get(key, {}), **row[key]} for key in BY_METRIC if earlier}
    return {**earlier, **row, **parts}

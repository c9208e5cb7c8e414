"""Networks and scores of `claims.py`: trained and sampled once, kept in its folder."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcli.cli.app import main as medcli
from medcli.data.assets import CLASSIFIER, asset_path
from medcli.engine.image_records import read_records
from medcli.engine.pictures import read_png
from medcli.runtime.reporting import Silent
from medcli.scores.classifier import class_labels, load_classifier
from medcli.settings.scoring import FeatureOptions, ScoreRequest
from medcli.tuning.running import mean_and_error
from medcli.workflows.fid.run import score_samples

T_LIMITS = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t at the 5 % level, two-sided, for 2 to 10 seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Sizes and place of the measurements."""

    folder: Path
    bundle: str
    num_images: int
    seeds: tuple[int, ...]
    steps: int
    num_drawn: int


Values = list[float]
Scores = dict[str, Values]
"""FID, share of right class and GMACs by seed."""


def run(*argv: object) -> dict[str, Any]:
    """Run a command of medcli as a user would, and return its JSON."""
    with redirect_stdout(io.StringIO()) as out:
        code = medcli([*map(str, argv), "--quiet", "--json"])
    if code:
        sys.exit(code)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def parent(study: Study) -> Path:
    """Return the bundled model without mediators."""
    file = study.folder / "parent.safetensors"
    if not file.exists():
        run("convert", study.bundle, "--mediators", "none", "-o", file)
    return file


def trained(study: Study, name: str, *flags: object) -> Path:
    """Train the parent further, with the same steps, batches and teacher for each name."""
    folder, start = study.folder / f"run-{name}", parent(study)
    same = ("--steps", study.steps, "--global-batch-size", 32, "--lr", 3e-4, "--ema", 0.95)
    usual = ("--dtype", "bf16", "--preview-every", 0, "--no-flip", "--seed", 0, "--distill", start, "-o", folder)
    if not (folder / "report.json").exists():
        data = () if "--data" in flags else ("--data", study.bundle)
        run("finetune", start, *same, *usual, *data, *flags)
    return folder / "checkpoint.safetensors"


def scores(study: Study, name: str, checkpoint: str | Path, *flags: object) -> Scores:
    """Sample with each seed and score."""
    found: Scores = {"fid": [], "right": [], "gmacs": []}
    for seed in study.seeds:
        folder = study.folder / f"{name}-{seed}"
        size = ("--num-images", study.num_images, "--seed", seed, "--classes", "all")
        totals = run("sample", checkpoint, *size, "--dtype", "bf16", *flags, "-o", folder)
        request = ScoreRequest(
            samples=folder, reference=study.bundle, metrics=("fid",), features=FeatureOptions(no_cache=True)
        )
        fid = score_samples(request, Silent()).scores.values["fid"]
        assert fid is not None  # a bundled classifier has the features FID needs
        found["fid"].append(fid)
        found["right"].append(right_share(folder, study.bundle))
        found["gmacs"].append(totals["gmacs_per_image"])
    return found


def right_share(folder: Path, bundle: str) -> float:
    """Return the share of images that the bundled classifier takes for their class."""
    records = [record for record in read_records(folder) if record is not None]
    images = torch.from_numpy(np.stack([read_png(folder / record.file) for record in records]))
    extractor = load_classifier(asset_path(f"{bundle}{CLASSIFIER}"), bundle)
    labels = torch.tensor([record.label for record in records])
    return float((class_labels(images, extractor) == labels).double().mean())


def word(differences: Sequence[float], *, wanted: float = -1) -> str:
    """Judge differences by seed: confirmed if they have the wanted sign beyond chance."""
    mean, error = mean_and_error(differences)
    limit = T_LIMITS[min(len(differences) - 2, len(T_LIMITS) - 1)]
    if abs(mean) <= limit * error or len(differences) < 2:
        return "unclear"
    return "confirmed" if mean * wanted > 0 else "refuted"


def shown(values: Sequence[float], digits: int = 2) -> str:
    """Write mean and standard error."""
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def minus(one: Sequence[float], other: Sequence[float]) -> Values:
    """Return differences by seed."""
    return [left - right for left, right in zip(one, other, strict=True)]


def table(rows: dict[str, Scores], against: str | None = None) -> list[str]:
    """Write scores as a Markdown table, with differences in FID from one of the rows."""
    lines = ["| | GMACs an image | FID | right class | FID, difference |", "| --- | --- | --- | --- | --- |"]
    for name, found in rows.items():
        base = None if against is None or name == against else minus(found["fid"], rows[against]["fid"])
        gap = "" if base is None else shown(base)
        right = shown([100 * share for share in found["right"]], 1)
        lines.append(
            f"| {name} | {mean_and_error(found['gmacs'])[0]:.2f} | {shown(found['fid'])} | {right} % | {gap} |"
        )
    return lines

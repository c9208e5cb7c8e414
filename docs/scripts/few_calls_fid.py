"""Compare the FID of plans of the bundled model, paired over seeds: `python docs/scripts/few_calls_fid.py FOLDER`.

Each plan samples the same noise and labels in each seed, so differences hold little of the scatter between seeds. The
samples are kept in FOLDER; the same command finishes an interrupted comparison. Figures: docs/samplers.md.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcli.runtime.reporting import Silent
from medcli.settings.sampling import SampleRequest
from medcli.settings.scoring import FeatureOptions, ScoreRequest
from medcli.workflows.fid.run import score_samples
from medcli.workflows.sample.run import sample

PLANS: dict[str, dict[str, Any]] = {
    "50 calls": {"sampler": "ode", "solver": "adams3", "steps": 50, "schedule": "full"},
    "12 calls": {"sampler": "ode", "solver": "adams3", "steps": 12, "schedule": "full"},
    "8 calls": {"sampler": "ode", "solver": "adams3", "steps": 8, "schedule": "full"},
    "16 mediators, 12 calls": {"sampler": "ode", "solver": "adams3", "steps": 12, "schedule": "static"},
    "dense SDE, 250 steps": {"sampler": "sde", "steps": 250, "schedule": "full"},
}
"""Settings of `sample` of each plan; the first is what the others are compared with."""


def fid_of(folder: Path, settings: dict[str, Any], num_images: int, seed: int) -> float:
    """Sample what is missing in a folder and return its FID against the real images."""
    sample(SampleRequest(num_images=num_images, seed=seed, output=folder, **settings), Silent())
    request = ScoreRequest(samples=folder, metrics=("fid",), features=FeatureOptions(no_cache=True))
    fid = score_samples(request, Silent()).scores.values["fid"]
    assert fid is not None  # the bundled classifier has the features FID needs
    return fid


def compare(folder: Path, names: Sequence[str], num_images: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return mean FID of each plan, and its mean difference to the first with the standard error over seeds."""
    found = {
        name: [fid_of(folder / f"{name}-{seed}".replace(" ", "-"), PLANS[name], num_images, seed) for seed in seeds]
        for name in names
    }
    first = found[names[0]]
    rows = []
    for name, values in found.items():
        paired = [value - base for value, base in zip(values, first, strict=True)]
        error = statistics.stdev(paired) / math.sqrt(len(seeds)) if len(seeds) > 1 else None
        rows.append(
            {"plan": name, "fid": statistics.mean(values), "difference": statistics.mean(paired), "error": error}
        )
    return rows


def main(argv: Sequence[str]) -> None:
    """Parse the command line, compare and print JSON."""
    parser = argparse.ArgumentParser(description="Compare the FID of plans, paired over seeds.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=["50 calls", "8 calls"])
    parser.add_argument("--num-images", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args(argv)
    sys.stdout.write(json.dumps(compare(args.folder, args.plans, args.num_images, args.seeds), indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

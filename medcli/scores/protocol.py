"""Protocol of a score, written beside it, and the check that two scores are comparable.

A protocol is plain JSON values under flat names: everything that changes a number and nothing else. Software versions
and the samples' hash are provenance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

from medcli.errors import CheckFailed, DataError, listed
from medcli.runtime.versions import versions
from medcli.scores.extractor import INCEPTION, LOGITS, POOL, FeatureExtractor
from medcli.scores.inception_score import BLOCK_SIZE
from medcli.scores.moments import Gaussian
from medcli.scores.precision_recall import NUM_NEIGHBOURS

PROTOCOL = "adm"
"""Formulas, block size, k and order of the ADM suite, in exact arithmetic (metrics-facts 1)."""
LAYERS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        INCEPTION: {
            "pool_layer": "pool_3, 2048",
            "logits_layer": "pool_3 times the kernel of softmax/logits, without bias, 1008",
            "spatial_layer": "mixed_6/conv after ReLU, channels 0 to 6, flattened row, column, channel, 2023",
        },
    }
)
"""Layers from which an extractor's features are taken, by its name; those of others are its last."""
REPORT_KEYS = ("protocol", "protocol_details", "provenance", "num_samples")
"""Keys that a JSON report needs to be compared."""
COMPARED_PROVENANCE = ("extractor_sha256", "reference_sha256", "reference_images_sha256")
"""Hashes that must agree; those of samples and software may differ between rows."""


def protocol_details(extractor: FeatureExtractor) -> dict[str, Any]:
    """Settings that determine the numbers, apart from files."""
    return {
        "extractor": extractor.name,
        "resize": extractor.preprocessing,
        **LAYERS.get(extractor.name, _last_layers(extractor.dims)),
        "dtype": "float32 features, float64 statistics",
        "order": "file order",
        "fid_root": "singular values of covariance factors",
        "inception_score_block_size": BLOCK_SIZE,
        "precision_recall_neighbours": NUM_NEIGHBOURS,
        "precision_recall_distance": "squared Euclidean, boundary inside, exact",
        "kid_kernel": "(x.y / d + 1)^3, unbiased, all rows",
    }


def _last_layers(dims: Mapping[str, int]) -> dict[str, str]:
    """Return the layers of an extractor whose features come from its last layers; without logits, from its last."""
    last = "penultimate layer" if LOGITS in dims else "output"
    layers = {POOL: ("pool_layer", last), LOGITS: ("logits_layer", "last layer with bias")}
    return {key: f"{words}, {dims[kind]}" for kind, (key, words) in layers.items() if kind in dims}


def software() -> dict[str, str | None]:
    """Versions of the software that computed the numbers."""
    try:
        fidelity = version("torch-fidelity")
    except PackageNotFoundError:
        fidelity = None
    return {**versions("numpy"), "torch_fidelity": fidelity}


def statistics_sha256(gaussians: Mapping[str, Gaussian]) -> str:
    """SHA-256 of ready statistics, as float64 numbers: the same for two files that hold the same ones."""
    digest = hashlib.sha256()
    for kind in sorted(gaussians):
        digest.update(kind.encode())
        for tensor in (gaussians[kind].mean_D, gaussians[kind].covariance_DD):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def compared(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a report that must be equal in all reports of a comparison.

    Args:
        report: What `medcli fid --json` wrote, read back.

    Raises:
        DataError: If it is something else.
    """
    missing = [key for key in REPORT_KEYS if key not in report]
    missing += [key for key in ("protocol_details", "provenance") if not isinstance(report.get(key, {}), Mapping)]
    if missing:
        raise DataError(f"it is no report of medcli fid: it lacks {listed(missing)}", hint="write it with --json")
    return {
        "num_samples": report["num_samples"],
        "protocol": report["protocol"],
        **report["protocol_details"],
        **{key: report["provenance"].get(key) for key in COMPARED_PROVENANCE},
    }


def differences(protocols: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Describe how protocols differ from the first one; keys are the names of their reports.

    A key that one side lacks is no difference: the hash of reference images, say, is absent if no metric needed them.
    Only the number of samples must be known on both sides.
    """
    (first, wanted), *others = protocols.items()
    return [
        f"{key} is {_short(value)} for {first}, {_short(given.get(key))} for {name}"
        for name, given in others
        for key, value in wanted.items()
        if given.get(key) != value and (key == "num_samples" or None not in (value, given.get(key)))
    ]


def check_comparable(protocols: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to compare scores whose protocols differ.

    Raises:
        CheckFailed: Naming what differs.
    """
    if found := differences(protocols):
        raise CheckFailed(
            f"these scores do not compare: {listed(found, limit=3)}",
            hint="score equal sets in one way (--num-images N cuts them), or pass --force to see them anyway",
        )


def _short(value: object) -> str:
    text = "unknown" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."

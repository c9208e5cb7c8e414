"""Check this machine; list what is missing and what that disables. Writes nothing, uses no network.

Each check imports what it checks itself, so a broken package breaks only one check.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from medcli.errors import DataError, EnvironmentProblem
from medcli.presets import DEFAULT_BUNDLE
from medcli.runtime.extras import EXTRAS, is_installed
from medcli.runtime.json_records import json_fields
from medcli.version import __version__
from medcli.workflows.doctor.finding import Check, Finding
from medcli.workflows.doctor.hardware import GIB, accelerators, bfloat16, compilation, fused_attention, processor

NEEDED_FOR = {
    "torch": "everything but help and inspect",
    "numpy": "everything but help",
    "safetensors": "reading and writing checkpoints",
    "pillow": "reading and writing images",
    "matplotlib": "the charts of demo, analyze, tune and report",
    "fvcore": "flops",
    "accelerate": "finetune",
    "jinja2": "report",
    "pyyaml": "settings beside LightningDiT's checkpoints",
    "typer": "the command line",
    "rich": "tables and progress bars",
    **({"tomli": "--config with TOML files"} if sys.version_info < (3, 11) else {}),
    **{package: extra.use for package, extra in EXTRAS.items()},
}
"""Consequence of each missing dependency."""
LITTLE_DISK_GIB = 1
WEIGHTS = ("*.safetensors", "*.bin")


def versions() -> Iterator[Finding]:
    """Check medcli, Python and the dependencies."""
    yield Finding(name="medcli", status="ok", found=f"{__version__} on Python {platform.python_version()}")
    held = dict[str, str]()
    for package, use in NEEDED_FOR.items():
        try:
            version, lack = metadata.version(package), "its files are missing"
        except metadata.PackageNotFoundError:
            version, lack = "", "not installed"
        if version and is_installed(package):
            held[package] = version
        else:
            remedy = f"pip install {'--force-reinstall ' if version else ''}{package}"
            if package in EXTRAS and not version:
                remedy = EXTRAS[package].command
            yield Finding(name=package, status="missing", found=lack, disables=use, remedy=remedy)
    yield Finding(name="packages", status="ok", found=", ".join(f"{name} {version}" for name, version in held.items()))


def torchvision() -> Iterator[Finding]:
    """Check torchvision, which torch-fidelity needs, and diffusers imports where it is installed."""
    if not (is_installed("torchvision") or is_installed("torch-fidelity")):
        return
    from medcli.runtime.torchvision_guard import import_torchvision

    disables = "fid with the Inception extractor"
    try:
        import_torchvision()
        version = metadata.version("torchvision")
    except (ImportError, metadata.PackageNotFoundError) as err:
        found = f"does not import: {' '.join(str(err).split())}"
        yield Finding(
            name="torchvision", status="missing", found=found, disables=disables, remedy="pip install torchvision"
        )
    except (RuntimeError, OSError, AttributeError) as err:
        found = f"broken: {' '.join(str(err).split())}"
        remedy = "reinstall torch and torchvision together, from one index"
        yield Finding(name="torchvision", status="missing", found=found, disables=disables, remedy=remedy)
    else:
        yield Finding(name="torchvision", status="ok", found=version)


def bundled_files() -> Iterator[Finding]:
    """Check the bundled models, classifiers, references and images."""
    from safetensors import SafetensorError, safe_open

    from medcli.data import assets
    from medcli.data.npz import npz_keys

    lost = list[str]()
    names = [f"{bundle}{part}" for bundle in assets.BUNDLES or (DEFAULT_BUNDLE,) for part in assets.PARTS]
    for name in names:
        try:
            path = assets.asset_path(name)
            if name.endswith(assets.IMAGES):
                npz_keys(path)
            else:
                with safe_open(path, "np"):  # checks the header and the length
                    pass
        except EnvironmentProblem:
            lost.append(f"no {name}")
        except (SafetensorError, OSError, DataError):
            lost.append(f"{name} is damaged")
    yield Finding(
        name="bundled files",
        status="missing" if lost else "ok",
        found=", ".join(lost) or f"all {len(names)}",
        disables="commands without a checkpoint, and demo" if lost else None,
        remedy="reinstall medcli" if lost else None,
    )


def autoencoder() -> Iterator[Finding]:
    """Check for the autoencoder of the published DiT and SiT models in the Hugging Face cache."""
    from medcli.config import SD_AUTOENCODER
    from medcli.data.latent_space import cached_folder

    disables = "images from latent models (sample) and latents of images (latents)"
    remedy = f"hf download {SD_AUTOENCODER}, or pass a folder with --vae"
    try:
        folder = cached_folder(SD_AUTOENCODER)
    except EnvironmentProblem:
        found = f"no {SD_AUTOENCODER} in the Hugging Face cache"
        yield Finding(name="autoencoder", status="missing", found=found, disables=disables, remedy=remedy)
        return
    if not any(file.stat().st_size for pattern in WEIGHTS for file in folder.glob(pattern) if file.exists()):
        found = f"no weights of {SD_AUTOENCODER} in {folder}"
        yield Finding(name="autoencoder", status="missing", found=found, disables=disables, remedy=remedy)
    else:
        yield Finding(name="autoencoder", status="ok", found=f"{SD_AUTOENCODER} at {folder}")


def inception_weights() -> Iterator[Finding]:
    """Check for the Inception network of published FID figures."""
    from medcli.runtime.files import file_sha256
    from medcli.scores.inception_weights import WEIGHTS_HASH, WEIGHTS_NAME, weights_folder

    path = weights_folder() / WEIGHTS_NAME
    disables, remedy = "fid with the Inception extractor", "medcli fid --download, or --extractor-weights PATH"
    if not path.is_file():
        found = f"not at {path}"
        yield Finding(name="Inception weights", status="missing", found=found, disables=disables, remedy=remedy)
    elif not file_sha256(path).startswith(WEIGHTS_HASH):
        found = f"damaged: {path}"
        yield Finding(name="Inception weights", status="missing", found=found, disables=disables, remedy=remedy)
    else:
        yield Finding(name="Inception weights", status="ok", found=str(path))


def cache() -> Iterator[Finding]:
    """Check the feature cache."""
    from medcli.scores.feature_cache import FeatureCache, default_cache_folder

    folder = default_cache_folder()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        found = f"{nearest} is {'not writable' if nearest.is_dir() else 'a file'}"
        remedy = "set MEDCLI_CACHE to a folder of your own"
        yield Finding(name="feature cache", status="missing", found=found, disables="keeping features", remedy=remedy)
        return
    size = FeatureCache(folder).size()
    found = f"{size.num_files} files, {size.num_bytes / 1e6:.1f} MB in {folder}"
    yield Finding(name="feature cache", status="ok", found=found)


def disk() -> Iterator[Finding]:
    """Check free space and permissions of the default output folder."""
    try:
        here = Path.cwd()
    except OSError:
        found, remedy = "the current folder was removed", "go to another folder"
        yield Finding(name="disk", status="missing", found=found, disables="commands without --output", remedy=remedy)
        return
    free = shutil.disk_usage(here).free / GIB
    found = f"{free:.1f} GiB free in {here}"
    if not os.access(here, os.W_OK):
        disables, remedy = "commands without --output", "pass --output, or work in a folder of your own"
        yield Finding(name="disk", status="missing", found=f"{here} is read-only", disables=disables, remedy=remedy)
    elif free < LITTLE_DISK_GIB:
        yield Finding(name="disk", status="remark", found=found, disables="large outputs", remedy="free some space")
    else:
        yield Finding(name="disk", status="ok", found=found)


CHECKS: tuple[Check, ...] = (
    versions, processor, accelerators, fused_attention, compilation, bfloat16, torchvision, bundled_files, autoencoder,
    inception_weights, cache, disk,
)  # fmt: skip
"""All checks in display order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorReport:
    """Findings of all checks."""

    findings: tuple[Finding, ...]

    @property
    def missing(self) -> tuple[Finding, ...]:
        """Findings with status `missing`."""
        return tuple(finding for finding in self.findings if finding.status == "missing")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "medcli": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "num_missing": len(self.missing),
            **json_fields(self),
        }


def examine(checks: Sequence[Check] = CHECKS) -> DoctorReport:
    """Run all checks. A check that raises becomes a finding too, since this also runs on broken installations."""
    return DoctorReport(findings=tuple(finding for check in checks for finding in _findings(check)))


def _findings(check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as err:  # whatever a broken installation comes up with
        reason = " ".join(str(err).split()) or "no reason given"
        yield Finding(
            name=check.__name__.replace("_", " "),
            status="missing",
            found=f"{type(err).__name__}: {reason}",
            disables="whatever needs it",
            remedy="reinstall the package that this error comes from",
        )

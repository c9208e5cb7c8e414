"""Checks of `medcli doctor`. Each imports what it checks itself, so that a broken package breaks only its own check."""

from __future__ import annotations

import os
import platform
import re
import shutil
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from medcli.errors import EnvironmentProblem
from medcli.version import __version__
from medcli.workflows.doctor.finding import Check, Finding

if TYPE_CHECKING:
    import torch

NEEDED_FOR = {
    "torch": "everything but help and inspect",
    "numpy": "everything but help",
    "safetensors": "reading and writing checkpoints",
    "pillow": "reading and writing images",
    "matplotlib": "the charts of demo, analyze, tune and report",
    "fvcore": "flops",
    "torch-fidelity": "fid with the Inception extractor",
    "torchdiffeq": "the solver dopri5",
    "diffusers": "autoencoders: images from latents, latents from images",
    "accelerate": "finetune",
    "jinja2": "report",
    "typer": "the command line",
    "rich": "tables and progress bars",
}
"""Consequence of each missing dependency."""
ASSETS = (
    "digits-sit.safetensors",
    "digits-classifier.safetensors",
    "digits-reference.safetensors",
    "digits.safetensors",
)
GIB = 2**30
LITTLE_DISK_GIB = 1
HEAD_WIDTH = 64
NUM_TOKENS = 64


def versions() -> Iterator[Finding]:
    """Check medcli, Python and the dependencies."""
    yield Finding(name="medcli", status="ok", found=f"{__version__} on Python {platform.python_version()}")
    held = dict[str, str]()
    for package, use in NEEDED_FOR.items():
        try:
            held[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Finding(
                name=package, status="missing", found="not installed", disables=use, remedy=f"pip install {package}"
            )
    yield Finding(name="packages", status="ok", found=", ".join(f"{name} {version}" for name, version in held.items()))


def processor() -> Iterator[Finding]:
    """Check the CPU, its memory, and torch's threads."""
    import torch

    cores, threads = _usable_cores(), torch.get_num_threads()
    found = f"{_processor_name()}, {cores} core{'s' if cores > 1 else ''}, {threads} thread{'s' if threads > 1 else ''}"
    memory = _memory_gib()
    found += f", {memory:.1f} GiB memory" if memory else ""
    if threads < cores:
        set_by = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)), None)
        remedy = f"unset {set_by}, or set it to {cores}" if set_by else f"set OMP_NUM_THREADS={cores}"
        yield Finding(name="processor", status="remark", found=found, disables="some speed", remedy=remedy)
    else:
        yield Finding(name="processor", status="ok", found=found)


def accelerators() -> Iterator[Finding]:
    """Check the GPUs that torch can use."""
    import torch

    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(number)
        found = f"{about.name}, {about.total_memory / GIB:.0f} GiB, compute capability {about.major}.{about.minor}"
        yield Finding(name=f"cuda:{number}", status="ok", found=found)
    if torch.backends.mps.is_available():
        yield Finding(name="mps", status="ok", found="Apple GPU")
    elif not torch.cuda.is_available():
        # ROCm builds answer to cuda as well.
        is_built = bool(torch.version.cuda or torch.version.hip)
        why = "torch finds no device or driver" if is_built else f"torch {torch.__version__} is built without CUDA"
        remedy = "check nvidia-smi and the driver" if is_built else "install a CUDA build: https://pytorch.org"
        disables = "large models at a useful speed: minutes an image instead of seconds"
        yield Finding(name="gpu", status="missing", found=why, disables=disables, remedy=remedy)


def fused_attention() -> Iterator[Finding]:
    """Check the memory-efficient attention kernels."""
    for device in _devices():
        kernels = [name for name in ("flash", "efficient", "cudnn") if _runs_fused(name, device)]
        yield Finding(
            name=f"fused attention, {device.type}",
            status="ok" if kernels else "missing",
            found=", ".join(kernels) or "no kernel runs",
            disables=None if kernels else "full attention at high resolution: memory grows with the square of tokens",
            remedy=None if kernels else "install a newer torch",
        )


def compilation() -> Iterator[Finding]:
    """Check the compiler that --compile needs."""
    from medcli.runtime.compilation import require_compiler

    for device in _devices():
        name = f"compilation, {device.type}"
        try:
            require_compiler(device)
        except EnvironmentProblem as err:
            yield Finding(name=name, status="missing", found=err.message, disables="--compile", remedy=err.hint)
        else:
            yield Finding(name=name, status="ok", found="a compiler is there")


def bfloat16() -> Iterator[Finding]:
    """Check whether --dtype bf16 is fast."""
    from medcli.runtime.precision import multiplies_bfloat16

    for device in _devices():
        is_fast = multiplies_bfloat16(device)
        yield Finding(
            name=f"bf16 arithmetic, {device.type}",
            status="ok" if is_fast else "missing",
            found="in hardware" if is_fast else "emulated",
            disables=None if is_fast else "the speed of --dtype bf16: it is many times slower than fp32 here",
            remedy=None if is_fast else "use --dtype fp32",
        )


def torchvision() -> Iterator[Finding]:
    """Check torchvision, which diffusers and torch-fidelity import."""
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
    """Check the bundled model, classifier and digits."""
    from medcli.data.assets import asset_path

    lost = list[str]()
    for name in ASSETS:
        try:
            asset_path(name)
        except EnvironmentProblem:
            lost.append(name)
    yield Finding(
        name="bundled files",
        status="missing" if lost else "ok",
        found=f"no {', '.join(lost)}" if lost else f"all {len(ASSETS)}",
        disables="commands without a checkpoint, and demo" if lost else None,
        remedy="reinstall medcli" if lost else None,
    )


def autoencoder() -> Iterator[Finding]:
    """Check for the autoencoder of the published DiT and SiT models in the Hugging Face cache."""
    from medcli.config import SD_AUTOENCODER
    from medcli.data.latent_space import cached_folder

    try:
        folder = cached_folder(SD_AUTOENCODER)
    except EnvironmentProblem:
        yield Finding(
            name="autoencoder",
            status="missing",
            found=f"no {SD_AUTOENCODER} in the Hugging Face cache",
            disables="images from latent models (sample) and latents of images (latents)",
            remedy=f"hf download {SD_AUTOENCODER}, or pass a folder with --vae",
        )
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
    from medcli.runtime.cache_folder import default_cache_folder
    from medcli.scores.feature_cache import FeatureCache

    folder = default_cache_folder()
    size = FeatureCache(folder).size()
    found = f"{size.num_files} files, {size.num_bytes / 1e6:.1f} MB in {folder}"
    yield Finding(name="feature cache", status="ok", found=found)


def disk() -> Iterator[Finding]:
    """Check free space and permissions of the default output folder."""
    here = Path.cwd()
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


def _devices() -> list[torch.device]:
    """Return the CPU, and the accelerator if there is one."""
    import torch

    kinds = ["cpu"] + (["cuda"] if torch.cuda.is_available() else ["mps"] if torch.backends.mps.is_available() else [])
    return [torch.device(kind) for kind in kinds]


def _runs_fused(kernel: str, device: torch.device) -> bool:
    """Return whether a kernel runs; without fallback, torch raises if it cannot."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
    }
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    tokens = torch.zeros(1, 1, NUM_TOKENS, HEAD_WIDTH, device=device, dtype=dtype)
    with warnings.catch_warnings(), sdpa_kernel(backends[kernel]):
        warnings.simplefilter("ignore")
        try:
            scaled_dot_product_attention(tokens, tokens, tokens)
        except RuntimeError:
            return False
    return True


def _usable_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor_name() -> str:
    """Return the CPU's name from /proc/cpuinfo, else from Python."""
    about = Path("/proc/cpuinfo")
    if about.is_file() and (line := re.search(r"^model name\s*:\s*(.+)$", about.read_text(), flags=re.MULTILINE)):
        return line[1]
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    """Return the machine's memory; None: unknown on this system."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (AttributeError, ValueError, OSError):
        return None

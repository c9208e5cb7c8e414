"""TorchScript modules as feature extractors."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from pathlib import Path

import torch

from medcli.errors import DataError
from medcli.runtime.precision import float32_products
from medcli.scores.extractor import CPU, POOL, FeatureExtractor

PROBED_PX = (64, 32, 224, 299)
"""Sides of the empty images by which the width of the features is found."""
MAX_CODE_BYTES = 2**26
"""Bound on the compressed members of an archive, its code: a small file may hold gigabytes of it."""
HINT = "it is called with (B, 3, Y, X) float32 images in 0 .. 255 and returns (B, D) features"


class TorchScriptExtractor(FeatureExtractor):
    """A scripted module with one kind of features.

    It is called with (B, 3, Y, X) float32 images in 0 .. 255, not resized, and returns (B, D) features.
    """

    preprocessing = "by the module"

    def __init__(self, name: str, module: torch.jit.ScriptModule, weights_sha256: str, device: torch.device) -> None:
        self._module = module
        super().__init__(name, {}, weights_sha256, device)
        self.dims = {POOL: self._width()}

    def _width(self) -> int:
        problem = ""
        for side in PROBED_PX:
            try:
                found = self.run(torch.zeros(2, 3, side, side, device=self._device))[POOL]
                return found.shape[1]
            except RuntimeError as err:  # also what TorchScript raises for errors in the module
                problem = str(err).strip().splitlines()[-1]
        raise DataError(f"{self.name} extracts no features: {problem[:200]}", hint=HINT)

    @torch.inference_mode()
    def prepare(self, images_BYXC: torch.Tensor) -> torch.Tensor:
        """(B, 3, Y, X) float32 in 0 .. 255."""
        return images_BYXC.to(self._device).permute(0, 3, 1, 2).float().contiguous()

    @torch.inference_mode()
    def run(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pool` (B, D) float32.

        Raises:
            DataError: If the module returns anything else.
        """
        with float32_products("highest"):
            found = self._module(prepared)
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(prepared):
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise DataError(f"{self.name} returns {shape} for {len(prepared)} images", hint=HINT)
        return {POOL: found.float()}


def is_torchscript(path: Path) -> bool:
    """Check for a TorchScript archive: a zip file with code and constants."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        return any(member.filename.endswith("/constants.pkl") for member in _members(path))
    except (OSError, zipfile.BadZipFile):
        return False


def _members(path: Path) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        return archive.infolist()


def load_torchscript(path: Path, name: str, *, device: torch.device = CPU) -> TorchScriptExtractor:
    """Load a TorchScript module; torch runs its code, and no Python.

    Raises:
        DataError: If it is damaged, or returns no features.
    """
    num_bytes = sum(member.file_size for member in _members(path) if member.compress_type != zipfile.ZIP_STORED)
    if num_bytes > MAX_CODE_BYTES:
        raise DataError(f"{path} holds {num_bytes:,} bytes of code, at most {MAX_CODE_BYTES:,} are read", hint=HINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
            module = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as err:
        raise DataError(
            f"{path} is no TorchScript module that torch can load: {str(err).splitlines()[0][:160]}", hint=HINT
        ) from err
    return TorchScriptExtractor(name, module, hashlib.sha256(path.read_bytes()).hexdigest(), device)

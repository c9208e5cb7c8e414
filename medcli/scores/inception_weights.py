"""Weights of the Inception network: default location, safe reading, download on request."""

from __future__ import annotations

import hashlib
import http.client
import io
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.files import atomic_path, file_sha256
from medcli.runtime.reporting import Reporter

WEIGHTS_NAME = "weights-inception-2015-12-05-6726825d.pth"
"""torch-fidelity's file of the TensorFlow weights."""
WEIGHTS_HASH = "6726825d"
"""By torch.hub's convention the file's SHA-256 starts with the last part of its name."""
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_NAME}"
TIMEOUT_S = 30
"""Timeout of a server's answer."""
PIECE_BYTES = 2**20
EXPECTED = f"expected the 472 tensors of {WEIGHTS_NAME} from {WEIGHTS_URL.removesuffix(WEIGHTS_NAME)}"


def weights_folder() -> Path:
    """Return torch.hub's folder of downloaded files: `$TORCH_HOME/hub/checkpoints`, else under `~/.cache/torch`."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def read_weights(path: Path | None = None) -> tuple[Path, dict[str, torch.Tensor], str]:
    """Read a weights file on this machine.

    Args:
        path: torch-fidelity's or pytorch-fid's `.pth`, or the same tensors as safetensors; None looks in
            `weights_folder`.

    Returns:
        Its path, its tensors by name, and its SHA-256.

    Raises:
        EnvironmentProblem: If there is no such file.
        DataError: If the file is damaged, needs pickled objects, or is not what its name says.
    """
    path = path or weights_folder() / WEIGHTS_NAME
    if not path.is_file():
        raise EnvironmentProblem(
            f"no Inception weights at {path} (SHA-256 {WEIGHTS_HASH}...); medcli downloads only with --download",
            hint=f"pass --download, download {WEIGHTS_URL} to that path, or pass a copy with --extractor-weights",
        )
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if path.name == WEIGHTS_NAME and not sha256.startswith(WEIGHTS_HASH):
        raise DataError(
            f"{path} is not the file of that name: its SHA-256 is {sha256[:8]}...", hint="download it again"
        )
    return path, _tensors(path, content), sha256


def _tensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load(content)
        weights = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as err:
        raise DataError(f"{path} can't be read as network weights", hint=EXPECTED) from err
    if not isinstance(weights, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise DataError(f"{path} does not hold a plain dictionary of tensors", hint=EXPECTED)
    return weights


def download_inception(
    folder: Path | None = None, reporter: Reporter | None = None, *, url: str = WEIGHTS_URL, sha256: str = WEIGHTS_HASH
) -> Path:
    """Download the weights file: the only use of the network, and only on the user's request.

    An existing file with the right hash is kept. The file appears whole or not at all.

    Args:
        folder: Destination; None: `weights_folder`.
        url: Source.
        sha256: Required prefix of its SHA-256.

    Raises:
        EnvironmentProblem: If the server can't be reached or the disk can't be written.
        DataError: If the download is not that file.
    """
    target = (folder or weights_folder()) / WEIGHTS_NAME
    if target.is_file() and file_sha256(target).startswith(sha256):
        return target
    digest = hashlib.sha256()
    with atomic_path(target, force=True) as temporary, temporary.open("wb") as file:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                _copy(answer, file, digest.update, int(answer.headers.get("Content-Length") or 0), reporter)
        except (urllib.error.URLError, http.client.HTTPException, ValueError, TimeoutError, ConnectionError) as err:
            raise EnvironmentProblem(
                f"can't download {url}: {err}", hint=f"download it elsewhere and put it at {target}"
            ) from err
        if not digest.hexdigest().startswith(sha256):
            raise DataError(
                f"the file from {url} is not the weights: SHA-256 {digest.hexdigest()[:8]}..., not {sha256}...",
                hint=f"download it elsewhere and put it at {target}",
            )
    return target


def _copy(
    answer: http.client.HTTPResponse,
    file: BinaryIO,
    update_hash: Callable[[bytes], None],
    num_bytes: int,
    reporter: Reporter | None,
) -> None:
    done = 0
    while piece := answer.read(PIECE_BYTES):
        file.write(piece)
        update_hash(piece)
        done += len(piece)
        if reporter and num_bytes:
            reporter.progress(done // 10**6, num_bytes // 10**6, "MB")
    if done < num_bytes:
        raise ConnectionError(f"the connection closed after {done} of {num_bytes} bytes")

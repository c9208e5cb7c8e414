"""Find files of the Hugging Face hub in the local cache; download them where the user asks for it. Torch-free.

Only `hf://owner/repo[/file]` and `--download` reach the network.
"""

from __future__ import annotations

import re
from pathlib import Path

from medcli.errors import CheckpointError, EnvironmentProblem, listed

PREFIX = "hf://"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]*[A-Za-z][\w.-]*")
"""Form of a hub name; a preset such as `SiT-XL/2` ends in digits."""
WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
PIPELINE = ("transformer/config.json", "model_index.json")
"""Files that show a diffusers pipeline; the parts of one that are downloaded."""
PIPELINE_PARTS = ("*.json", "transformer/*", "vae/*", "scheduler/*")
UNREACHABLE = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectTimeout", "ConnectionError")
"""Errors of the library without a network."""
FOLDER_PARTS = ("config.json", "diffusion_pytorch_model*")


def is_hub_name(text: str) -> bool:
    """Check for the form of a hub name, with or without `hf://`, that is no path of this machine."""
    if text.startswith(PREFIX):
        return True
    return REPOSITORY.fullmatch(text) is not None and not text.endswith(WEIGHTS) and not Path(text).exists()


def asked_for(name: str, download: bool) -> str:
    """Return a hub name in the form that allows downloading, if that was asked for; other names as they are."""
    name = re.sub(r"^hf:/+", PREFIX, name)  # a path joins the two slashes
    return f"{PREFIX}{name}" if download and is_hub_name(name) and not name.startswith(PREFIX) else name


def local_path(name: str | Path, download: bool = False) -> str | Path:
    """Return the path of a hub name that begins with `hf://`, is in the cache, or is to be downloaded; others as given.

    Raises:
        EnvironmentProblem: If it can't be downloaded.
        CheckpointError: See `hub_path`.
    """
    text = asked_for(str(name), download)
    if not is_hub_name(text):
        return name
    if text.startswith(PREFIX):
        return hub_path(text)
    try:
        return hub_path(text)
    except EnvironmentProblem:  # a path that does not exist may look like a name
        return name


def hub_path(name: str) -> Path:
    """Return the local file or folder of a hub name, from the cache, or downloaded into it if it begins with `hf://`.

    Args:
        name: `hf://owner/repo[/file]`, or `owner/repo`.

    Raises:
        EnvironmentProblem: If it is not in the cache and may not or can't be downloaded.
        CheckpointError: If the name has another form, or the repository holds several weights.
    """
    owner, _, rest = name.removeprefix(PREFIX).partition("/")
    repository, _, file = rest.partition("/")
    repo = f"{owner}/{repository}"
    if REPOSITORY.fullmatch(repo) is None or ".." in file.split("/"):
        raise CheckpointError(f"{name} is no hub name", hint=f"write it like {PREFIX}owner/repo/file")
    if (cached := _cached(repo, file)) is not None:
        return cached
    if not name.startswith(PREFIX):
        raise _missing(repo, file, "")
    try:
        return _downloaded(repo, file)
    except CheckpointError:
        raise
    except Exception as err:  # the library fails in many ways: offline, no such file, a gated repository
        raise _missing(repo, file, _reason(err)) from err


def hub_title(path: Path) -> str:
    """Return the name of a checkpoint for people: that of its file, or of its repository for a folder of the cache."""
    is_snapshot = path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--")
    return path.parent.parent.name.split("--")[-1] if is_snapshot else path.name


def download_command(repo: str, file: str = "") -> str:
    """Return the command that puts a file or a repository into the cache."""
    return f"hf download {repo} {file}".strip()


def _missing(repo: str, file: str, reason: str) -> EnvironmentProblem:
    what = f"{repo}/{file}" if file else repo
    because = f" and can't be downloaded ({reason})" if reason else ", and medcli never downloads unasked"
    unasked = "" if reason else f"; or write {PREFIX}{what}"
    return EnvironmentProblem(
        f"{what} is not on this machine{because}", hint=f"get it once: {download_command(repo, file)}{unasked}"
    )


def _reason(err: Exception) -> str:
    if type(err).__name__ in UNREACHABLE or "offline" in str(err).lower():
        return "offline"
    return f"{type(err).__name__}: {str(err).strip().splitlines()[0][:120]}" if str(err).strip() else type(err).__name__


def _cached(repo: str, file: str) -> Path | None:
    """Return the file, or the folder of a repository whose model is complete in the cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    if file:
        found = try_to_load_from_cache(repo, file)
        return Path(found) if isinstance(found, str) else None
    for mark in (*PIPELINE, "config.json"):
        found = try_to_load_from_cache(repo, mark)
        if isinstance(found, str):
            return Path(found).parents[mark.count("/")]
    return _only_weights(repo)


def _only_weights(repo: str) -> Path | None:
    """Return the one file of weights of a repository that is in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    files = sorted(file for file in folder.rglob("*") if file.suffix in WEIGHTS)
    return _chosen(repo, [str(file.relative_to(folder)) for file in files], folder)


def _chosen(repo: str, names: list[str], folder: Path) -> Path | None:
    if len(names) > 1:
        raise CheckpointError(
            f"{repo} holds several files of weights ({listed(names, 4)})", hint=f"name one: {PREFIX}{repo}/{names[0]}"
        )
    return folder / names[0] if names else None


def _downloaded(repo: str, file: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    if file:
        return Path(hf_hub_download(repo, file))
    names = HfApi().list_repo_files(repo)
    if any(mark in names for mark in PIPELINE):
        return Path(snapshot_download(repo, allow_patterns=list(PIPELINE_PARTS)))
    if "config.json" in names:
        return Path(snapshot_download(repo, allow_patterns=list(FOLDER_PARTS)))
    weights = [name for name in names if name.endswith(WEIGHTS)]
    chosen = _chosen(repo, weights, Path())
    if chosen is None:
        raise CheckpointError(f"{repo} holds no weights", hint=f"name a file: {PREFIX}{repo}/FILE")
    return Path(hf_hub_download(repo, str(chosen)))

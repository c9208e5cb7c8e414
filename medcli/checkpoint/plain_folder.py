"""Find the weights in a folder that is none of diffusers: of accelerate or DeepSpeed, or with a single checkpoint."""

from __future__ import annotations

from pathlib import Path

from medcli.errors import CheckpointError, listed

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
CONFIGS = ("config.json", "transformer/config.json")
"""Files of which a diffusers folder has one."""
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Lists of shards, as accelerate writes them."""
OTHERS = ("optimizer", "scheduler", "random_states", "scaler", "sampler", "training_args", "latents_stats", "rng_state")
"""First words of the names of files that hold no weights of a model."""
OPTIMIZER = "optim_states"
"""Part of the names of DeepSpeed's files of optimizer states."""
LATEST, MAX_NAME = "latest", 255
"""DeepSpeed's file that names the sub-folder of the newest step, and its longest name."""


def plain_weights(folder: Path) -> Path | None:
    """Return the weight file or the index of shards of a folder without a diffusers configuration; None: neither.

    A folder of DeepSpeed has them in the sub-folder of its newest step.

    Raises:
        CheckpointError: If it has several.
    """
    found, newest = _weights_in(folder), _newest_step(folder)
    return _weights_in(newest) if found is None and newest is not None else found


def _weights_in(folder: Path) -> Path | None:
    if any((folder / name).is_file() for name in CONFIGS):
        return None
    if index := next((folder / name for name in INDICES if (folder / name).is_file()), None):
        return index
    files = sorted(
        file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file() and not _is_other(file.name)
    )
    if len(files) > 1:
        raise CheckpointError(
            f"{folder} holds {len(files)} files of weights ({listed([file.name for file in files], 3)})",
            hint=f"name one of them: {folder / files[0].name}",
        )
    return files[0] if files else None


def _is_other(name: str) -> bool:
    return name.startswith((*OTHERS, ".")) or OPTIMIZER in name


def _newest_step(folder: Path) -> Path | None:
    """Return the sub-folder that DeepSpeed's `latest` names; None if there is none."""
    file = folder / LATEST
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        name = opened.read(MAX_NAME).decode("utf-8", "replace").strip()
    is_inside = name == Path(name).name and name not in ("", "..", ".") and "\0" not in name
    return folder / name if is_inside and (folder / name).is_dir() else None

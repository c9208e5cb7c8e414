"""Find the weights in a folder that is none of diffusers: one of accelerate's, or one with a single checkpoint."""

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


def plain_weights(folder: Path) -> Path | None:
    """Return the weight file or the index of shards of a folder without a diffusers configuration; None: neither.

    Raises:
        CheckpointError: If it has several.
    """
    if any((folder / name).is_file() for name in CONFIGS):
        return None
    if index := next((folder / name for name in INDICES if (folder / name).is_file()), None):
        return index
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in SUFFIXES and file.is_file() and not file.name.startswith((*OTHERS, "."))
    )
    if len(files) > 1:
        raise CheckpointError(
            f"{folder} holds {len(files)} files of weights ({listed([file.name for file in files], 3)})",
            hint=f"name one of them: {folder / files[0].name}",
        )
    return files[0] if files else None

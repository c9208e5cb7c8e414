"""Words a shell offers for a flag or an argument: choices, presets, bundles, and files of the folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medcli.settings.declare import Setting

CHECKPOINTS = ("CHECKPOINT", "SOURCE", "MODEL", "TEACHER")
"""Placeholders that stand for a checkpoint."""
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
PRESETS = ("MODEL", "preset")
"""Placeholders and keys for which a preset may be given."""
BUNDLE = "BUNDLE"
"""Placeholder for which nothing but a bundle may be given."""
BUNDLED = (*CHECKPOINTS, BUNDLE, "data", "reference", "extractor")
"""Placeholders and keys for which a bundle may be given."""


def suggestions(made: Setting, incomplete: str) -> list[str]:
    """Return the words that begin like the one that is being typed.

    Args:
        made: The flag or argument it belongs to.
        incomplete: The word so far.
    """
    from medcli.data.assets import BUNDLES
    from medcli.presets import preset_names

    names = {made.metavar, made.key}
    words = list(made.choices)
    words += BUNDLES if names & set(BUNDLED) else ()
    words += preset_names() if names & set(PRESETS) else ()
    found = [word for word in words if word.lower().startswith(incomplete.lower())]
    is_path = made.positional or Path in made.types or bool(names & set(BUNDLED))
    takes_paths = is_path and not made.choices and BUNDLE not in names
    return found + (_paths(incomplete, CHECKPOINT_SUFFIXES if names & set(CHECKPOINTS) else ()) if takes_paths else [])


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    """List folders, and files with one of the suffixes or all, as far as they are readable."""
    folder, _, start = incomplete.rpartition("/")
    base = f"{folder}/" if "/" in incomplete else ""
    try:
        entries = sorted(Path(base or ".").expanduser().iterdir())
    except OSError:
        return []
    shown = [entry for entry in entries if entry.name.startswith(start) and (start or entry.name[0] != ".")]
    return [
        f"{base}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in shown
        if entry.is_dir() or not suffixes or entry.suffix in suffixes
    ]

"""Folder of the feature cache."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MEDCLI_CACHE"
"""Environment variable that names another folder."""


def default_cache_folder() -> Path:
    """`$MEDCLI_CACHE`, else `~/.cache/medcli/features`. It need not exist."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "medcli" / "features"

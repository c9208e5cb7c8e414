"""Settings of `merge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcli.settings.declare import OUTPUT, setting
from medcli.settings.machine import output_setting


@dataclass(frozen=True, kw_only=True)
class MergeRequest:
    """Sample folders to join."""

    folders: tuple[Path, ...] = setting(
        help="Sample folders of one command, such as its shards.", metavar="FOLDER", positional=True
    )
    output: Path | None = output_setting(
        metavar="DIR", help="Output folder.", default_text="samples/merged; a single folder is completed in place"
    )
    npz: bool = setting(False, help="Also write samples.npz, for scoring suites.", panel=OUTPUT, short=True)

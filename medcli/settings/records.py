"""Settings in what runs write down: the `manifest.json` of a sample folder, the `config.json` of a finetune run."""

from __future__ import annotations

from collections.abc import Mapping

from medcli.settings.config_file import RecordReader

RECORDS: Mapping[str, RecordReader] = {}

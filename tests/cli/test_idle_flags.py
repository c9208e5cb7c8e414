"""Flags that would do nothing for what is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcli.errors import ExitCode
from tests.conftest import RunCli


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        ("finetune --mask-ratios 0.1-0.2", "--mask-ratios does nothing without --mask", "add --mask down"),
        ("finetune --mask-mid none", "--mask-mid does nothing without --mask", "add --mask down"),
        ("sample --amm-form cos", "--amm-form does nothing without --amm", "add --amm auto"),
    ],
)
def test_a_flag_without_a_meaning_is_refused_by_name(
    words: str, said: str, hint: str, run_cli: RunCli, empty_folder: Path
) -> None:
    result = run_cli(*words.split())
    assert result.code == ExitCode.USAGE
    assert said in result.err
    assert f"hint: {hint}" in result.err
    assert not list(empty_folder.iterdir())

from pathlib import Path

import pytest

from medcli.runtime.cache_folder import default_cache_folder


def test_the_variable_comes_first_and_its_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("MEDCLI_CACHE", "~/kept")
    assert default_cache_folder() == Path("/somewhere/kept")
    monkeypatch.setenv("MEDCLI_CACHE", "")
    assert default_cache_folder() == Path("/somewhere/.cache/medcli/features")

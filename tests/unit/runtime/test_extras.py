"""Commands whose optional package is not installed say so in two lines, before any work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

import medcli
from medcli.errors import EnvironmentProblem
from medcli.runtime.extras import EXTRAS, Extra, is_installed, require_extra
from tests.conftest import RunCli


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a package's module look as if it was not installed."""
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)


@pytest.mark.parametrize("package", EXTRAS)
def test_a_hidden_package_is_not_installed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra(package)
    hide(package, monkeypatch)
    assert not is_installed(package)
    with pytest.raises(EnvironmentProblem, match=f"needs {package}, which is not installed") as caught:
        require_extra(package)
    assert caught.value.hint == f"pip install 'medcli[{EXTRAS[package].name}]'"


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("torchdiffeq", "sample digits --sampler ode --solver dopri5"),
        ("torchdiffeq", "sample digits --sampler ode --solver dopri5 --dry-run"),
        ("torch-fidelity", "fid images images --extractor inception"),
        ("torch-fidelity", "fid images images --extractor inception --download"),
        ("diffusers", "latents images --vae images -o latents"),
    ],
)
def test_a_command_without_its_extra_ends_at_once(
    package: str, words: str, monkeypatch: pytest.MonkeyPatch, run_cli: RunCli, empty_folder: Path
) -> None:
    hide(package, monkeypatch)
    Path("images").mkdir()
    for index in range(2):
        Image.new("RGB", (16, 16)).save(f"images/{index}.png")
    result = run_cli(*words.split())
    assert result.code == 5, result.err
    error, hint = result.err.strip().splitlines()
    assert f"needs {package}, which is not installed" in error
    assert hint == f"hint: pip install 'medcli[{EXTRAS[package].name}]'"
    assert [path.name for path in empty_folder.iterdir()] == ["images"]


def test_an_autoencoder_from_python_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide("diffusers", monkeypatch)
    with pytest.raises(EnvironmentProblem, match="needs diffusers"):
        medcli.load_autoencoder(str(tmp_path))


@pytest.mark.parametrize("extra", EXTRAS.values())
def test_every_extra_is_declared_and_in_the_readme(extra: Extra) -> None:
    root = Path(__file__).parents[3]
    assert f"\n{extra.name} = [" in (root / "pyproject.toml").read_text(encoding="utf-8")
    assert f"| `{extra.name}` |" in (root / "README.md").read_text(encoding="utf-8")

"""Names of the Hugging Face hub: the cache, downloads that were asked for, and what is said offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import medcli
from medcli.checkpoint.hub import hub_path, hub_title, is_hub_name
from medcli.cli.app import main
from medcli.errors import CheckpointError, EnvironmentProblem
from medcli.presets import means_preset
from tests.unit.checkpoint.builders import TINY, random_state


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the library, which is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def cached(cache: Path, repo: str, *files: str) -> Path:
    """Put a checkpoint into the cache under some names, as the library does: links to blobs."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "blobs").mkdir()
    for number, name in enumerate(files):
        blob = folder / "blobs" / f"{number:064x}"
        torch.save(random_state(TINY), blob)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    return snapshot


def test_names_are_told_from_paths_and_presets(tmp_path: Path) -> None:
    assert is_hub_name("facebook/DiT-XL-2-256")
    assert is_hub_name("hf://a/b/c.pt")
    assert not any(map(is_hub_name, ("SiT-XL/2", "runs/model.pt", "a/b/c", "/a/b", "file", "~/x")))
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert not is_hub_name("runs/a")
    assert [means_preset(name) for name in ("SiT-XL/2", "sit-xl", "facebook/DiT-XL-2-256", "hf://a/b")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("name", ["hf://someone/nets/sit/tiny_sit.pt", "hf://someone/nets", "someone/nets"])
def test_what_is_in_the_cache_is_read_without_the_network(cache: Path, name: str) -> None:
    cached(cache, "someone/nets", "sit/tiny_sit.pt")
    assert main(["convert", name, "--heads", "2", "--layers", "none", "-q"]) == 0
    assert Path("tiny_sit-medcli.safetensors").is_file()
    assert medcli.load(name, num_heads=2).config.depth == TINY.depth


def test_of_several_files_none_is_guessed(cache: Path) -> None:
    cached(cache, "someone/nets", "a_sit.pt", "b_sit.pt")
    with pytest.raises(CheckpointError, match=r"several files of weights \(a_sit.pt, b_sit.pt\)") as caught:
        hub_path("hf://someone/nets")
    assert caught.value.hint == "name one: hf://someone/nets/a_sit.pt"


def test_offline_one_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "hf://someone/nets/x_sit.pt"]) == 5
    error = capsys.readouterr().err.splitlines()
    assert error == [
        "error: someone/nets/x_sit.pt is not on this machine and can't be downloaded (offline)",
        "hint: get it once: hf download someone/nets x_sit.pt",
    ]
    assert main(["inspect", "someone/nets", "--download"]) == 5
    assert "hf download someone/nets" in capsys.readouterr().err
    assert main(["inspect", "someone/nets"]) == 3
    assert "or write hf://someone/nets" in capsys.readouterr().err


def test_a_plain_name_never_reaches_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr("huggingface_hub.HfApi", fail)
    with pytest.raises(EnvironmentProblem, match="never downloads unasked"):
        hub_path("someone/nets")


def test_what_is_asked_for_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        torch.save(random_state(TINY), tmp_path / file)
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert main(["inspect", "hf://someone/nets/x_sit.pt", "--heads", "2", "-q"]) == 0
    assert asked == [("someone/nets", "x_sit.pt")]


@pytest.mark.parametrize("name", ["hf://", "hf://a", "hf://a/b/../../c.pt", "hf://a b/c/x.pt"])
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="is no hub name"):
        hub_path(name)


def test_a_folder_of_the_cache_has_its_repositorys_name(cache: Path) -> None:
    snapshot = cached(cache, "someone/nets", "x.pt")
    assert (hub_title(snapshot), hub_title(snapshot / "x.pt")) == ("nets", "x.pt")

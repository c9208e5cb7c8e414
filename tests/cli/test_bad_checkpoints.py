"""Bad checkpoints and impossible wishes: one error line, one hint line, the right exit code, nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medcli.config import ModelConfig
from medcli.model.grid_tables import position_table
from medcli.runtime import files
from tests.conftest import Result, RunCli
from tests.unit.checkpoint.builders import random_state

CONFIG = ModelConfig(family="sit", hidden_size=384, depth=1, num_heads=6, latent_size=8, num_classes=3, mlp_ratio=0.5)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_refused(result: Result, code: int, *words: str) -> None:
    assert result.code == code, result.err
    assert result.out == ""
    lines = result.err.splitlines()
    assert [line.split()[0] for line in lines] == ["error:", "hint:"], result.err
    assert len(lines[1].split()) > 1
    for word in words:
        assert word in result.err


class Touch:
    """Pickles to the making of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def flat(**changes: Any) -> Callable[[Path], object]:
    """A writer of a state dict in which some tensors are replaced, or left out for None."""

    def write(path: Path) -> object:
        state = {**random_state(CONFIG), **{name.replace("__", "."): value for name, value in changes.items()}}
        return torch.save({name: value for name, value in state.items() if value is not None}, path)

    return write


def cut(write: Callable[[Path], object]) -> Callable[[Path], object]:
    """A writer of the first two thirds of a file."""

    def write_part(path: Path) -> object:
        write(path)
        return path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    return write_part


def not_finite(path: Path) -> object:
    weight = random_state(CONFIG)["blocks.0.attn.qkv.weight"]
    weight[-1, -1] = float("nan")
    return flat(blocks__0__attn__qkv__weight=weight)(path)


OTHER = "hint: all of that model is there and more, so it is another architecture"
BAD_FILES: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "missing": ("sit.pt", lambda path: None, ("sit.pt does not exist",)),
    "empty": ("sit.pt", lambda path: path.touch(), ("sit.pt is empty",)),
    "truncated zip": ("sit.pt", cut(flat()), ("sit.pt is a damaged or truncated zip",)),
    "truncated safetensors": (
        "sit.safetensors",
        cut(lambda path: save_file(random_state(CONFIG), path)),
        ("sit.safetensors is a damaged safetensors file: it is cut short",),
    ),
    "web page": ("sit.pt", lambda path: path.write_text("<!DOCTYPE html><html></html>"), ("web page",)),
    "malicious pickle": (
        "sit.pt",
        lambda path: torch.save({**random_state(CONFIG), "x": Touch(path.parent / "ran")}, path),
        ("wants to run", "refused"),
    ),
    "wrong shape": (
        "sit.pt",
        flat(blocks__0__mlp__fc2__bias=torch.ones(3)),
        ("blocks.0.mlp.fc2.bias (3,) instead of (384,)",),
    ),
    "missing tensor": ("sit.pt", flat(blocks__0__mlp__fc2__bias=None), ("1 missing (blocks.0.mlp.fc2.bias)",)),
    "another tensor": ("sit.pt", flat(blocks__0__attn__gate=torch.ones(6)), (OTHER,)),
    "parts of a q/k norm": ("sit.pt", flat(blocks__0__attn__q_norm__weight=torch.ones(64)), ("missing", OTHER)),
    "parts of an RMSNorm": ("sit.pt", flat(blocks__0__norm1__weight=torch.ones(384)), ("missing", OTHER)),
    "NaN weights": ("sit.pt", not_finite, ("blocks.0.attn.qkv.weight", "NaN")),
    "unknown family": ("0400000.pt", flat(), ("--family dit or --family sit",)),
    "no EMA": (
        "0400000.pt",
        lambda path: torch.save({"model": random_state(CONFIG), "opt": {}}, path),
        ("error: 0400000.pt has no EMA weights (found: model, opt)", "hint: pass --weights model"),
    ),
    "folder": ("sit", lambda path: path.mkdir(), ("folder without a diffusers model",)),
}


@pytest.mark.parametrize("kind", list(BAD_FILES))
def test_a_bad_file_is_named_and_nothing_is_left(kind: str, empty_folder: Path, run_cli: RunCli) -> None:
    name, write, words = BAD_FILES[kind]
    write(empty_folder / name)
    before = files_below(empty_folder)
    assert_refused(run_cli("convert", name), 3, *words)
    assert files_below(empty_folder) == before


@pytest.mark.parametrize("kind", [kind for kind in BAD_FILES if kind not in ("NaN weights", "no EMA")])
def test_inspect_refuses_the_same_files(kind: str, empty_folder: Path, run_cli: RunCli) -> None:
    name, write, words = BAD_FILES[kind]
    write(empty_folder / name)
    before = files_below(empty_folder)
    assert_refused(run_cli("inspect", name), 3, *words)
    assert files_below(empty_folder) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mediators", "5"], ("mediator count 5 is not a perfect square", "use 4 or 9")),
        (["--mediators", "16,4"], ("must rise", "--mediators 4,16")),
        (["--mediators", "4,4"], ("must rise", "--mediators 4")),
        (["--mediators", "4,x"], ("'4,x'", "--mediators 4,16,64")),
        (["--mediators", "0"], ("mediator count 0",)),
        (["--layers", "0-3"], ("no block 3", "0-0")),
        (["--layers", "some"], ("some",)),
        (["--layers", "none", "--mediators", "4"], ("--layers none",)),
        (["--res", "100"], ("resolution 100 px is not a positive multiple of 16", "--res 96")),
        (["--to", "diffusers"], ("SiT",)),
        (["--to", "official", "--mediators", "1,4"], ("one mediator count", "--mediators 4")),
        (["-o", "."], ("already exists",)),
    ],
    ids=" ".join,
)
def test_an_impossible_wish_is_named(
    flags: list[str], words: tuple[str, ...], empty_folder: Path, run_cli: RunCli
) -> None:
    flat()(empty_folder / "sit.pt")
    assert_refused(run_cli("convert", "sit.pt", *flags), 2, *words)
    assert files_below(empty_folder) == ["sit.pt"]


def test_an_existing_output_is_kept_without_force(empty_folder: Path, run_cli: RunCli) -> None:
    flat()(empty_folder / "sit.pt")
    (empty_folder / "sit-mediators.safetensors").write_text("mine")
    assert_refused(run_cli("convert", "sit.pt"), 2, "sit-mediators.safetensors already exists", "--force")
    assert (empty_folder / "sit-mediators.safetensors").read_text() == "mine"
    assert run_cli("convert", "sit.pt", "--force").code == 0


def test_a_read_only_output_is_the_environments_problem(
    empty_folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat()(empty_folder / "sit.pt")

    def refuse(target: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    # Permissions do not stop a test that runs as root.
    monkeypatch.setattr(files, "make_temporary", refuse)
    assert_refused(run_cli("convert", "sit.pt"), 5, "can't write sit-mediators.safetensors", "--output")
    assert files_below(empty_folder) == ["sit.pt"]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Let no file grow beyond 64 KiB, as on a disk that is almost full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("flags", [[], ["--to", "official"]], ids=["medcli", "official"])
@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_leaves_nothing_behind(
    flags: list[str], empty_folder: Path, run_cli: RunCli, request: pytest.FixtureRequest
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    flat()(empty_folder / "sit.pt")
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_refused(run_cli("convert", "sit.pt", *flags), 5, "can't write", "ulimit -f")
    assert files_below(empty_folder) == ["sit.pt"]


def test_a_full_disk_is_told_by_the_name_the_folder_was_to_have(empty_folder: Path, run_cli: RunCli) -> None:
    config = replace(CONFIG, family="dit", mlp_ratio=4.0)
    positions = torch.from_numpy(position_table(config.hidden_size, config.tokens_side))[None]
    torch.save({**random_state(config), "pos_embed": positions}, "dit.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        result = run_cli("convert", "dit.pt", "--layers", "none", "--to", "diffusers")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_refused(result, 5, "can't write dit-diffusers/transformer/diffusion_pytorch_model.safetensors", "ulimit -f")
    assert files_below(empty_folder) == ["dit.pt"]


LONG = "x" * 300


@pytest.mark.parametrize("command", ["convert", "inspect", "sample", "finetune"])
def test_a_name_no_file_can_have_is_a_missing_checkpoint(command: str, empty_folder: Path, run_cli: RunCli) -> None:
    assert_refused(run_cli(command, f"{LONG}.pt"), 3, "does not exist", "too long")
    assert files_below(empty_folder) == []


@pytest.mark.parametrize("output", [LONG, f"{LONG}/a"])
@pytest.mark.parametrize("layout", ["medcli", "official"])
def test_an_output_name_that_is_too_long_is_refused(
    output: str, layout: str, empty_folder: Path, run_cli: RunCli
) -> None:
    flat()(empty_folder / "sit.pt")
    result = run_cli("convert", "sit.pt", "--layers", "none", "--to", layout, "-o", output)
    assert_refused(result, 5, "name too long")
    assert files_below(empty_folder) == ["sit.pt"]


def test_heads_that_do_not_divide_the_width_are_refused(empty_folder: Path, run_cli: RunCli) -> None:
    flat()(empty_folder / "sit.pt")
    assert_refused(run_cli("convert", "sit.pt", "--heads", "5"), 3, "5 heads", "384")


def test_a_remark_never_stands_before_an_error(empty_folder: Path, run_cli: RunCli) -> None:
    """9 mediators are too many for 16 tokens, but the ladder can't be written at all."""
    flat()(empty_folder / "sit.pt")
    assert_refused(
        run_cli("convert", "sit.pt", "--mediators", "4,9", "--to", "official"), 2, "holds one mediator count"
    )


def test_a_pipe_is_refused_instead_of_waited_for(empty_folder: Path, run_cli: RunCli) -> None:
    os.mkfifo("sit.pt")
    assert_refused(run_cli("convert", "sit.pt"), 3, "pipe")


@pytest.mark.parametrize(("setting", "value"), [("depth", 10**9), ("num_heads", 0), ("latent_scale", "x")])
def test_a_header_that_lies_about_the_model_is_refused_at_once(
    setting: str, value: object, empty_folder: Path, run_cli: RunCli
) -> None:
    config = json.dumps({**CONFIG.to_json(), setting: value})
    others = '"format_version":1,"weights":"ema","sampling":{},"reference":null,"training":{}'
    save_file(random_state(CONFIG), "x.safetensors", {"medcli": f'{{"config":{config},{others}}}'})
    assert_refused(run_cli("inspect", "x.safetensors"), 3)

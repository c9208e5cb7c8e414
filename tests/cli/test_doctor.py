"""`medcli doctor` tells what is missing, survives what is broken, and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from medcli.data import assets, latent_space
from medcli.errors import EnvironmentProblem
from medcli.runtime import extras, precision, torchvision_guard
from medcli.scores import inception_weights
from medcli.workflows.doctor import hardware
from medcli.workflows.doctor import run as doctor_checks
from medcli.workflows.doctor.finding import Finding
from medcli.workflows.doctor.run import examine
from tests.conftest import RunCli


def only(check: Any) -> Finding:
    """The one finding of a check."""
    (finding,) = check()
    return finding


def test_everything_is_looked_at_and_nothing_is_an_error(run_cli: RunCli, empty_folder: Path) -> None:
    result = run_cli("doctor", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert {"medcli", "packages", "processor", "torchvision", "bundled files", "autoencoder"} <= set(found)
    assert {"Inception weights", "feature cache", "disk", "fused attention, cpu", "compilation, cpu"} <= set(found)
    assert found["bundled files"]["status"] == "ok"
    assert found["fused attention, cpu"]["found"] == "flash"
    assert f"torch {metadata.version('torch')}" in found["packages"]["found"]
    assert report["num_missing"] == sum(finding["status"] == "missing" for finding in report["findings"])
    for finding in report["findings"]:
        assert finding["status"] in ("ok", "missing", "remark")
        assert (finding["disables"] is None) == (finding["status"] == "ok")
    assert list(empty_folder.iterdir()) == []


def test_a_person_reads_what_is_lost_and_how_to_get_it(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    result = run_cli("doctor")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith("Inception weights: disables"))
    assert lines[number + 1].startswith("  medcli fid --download")
    assert "missing: " in result.out


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on() -> None:
    def broken_part() -> Iterator[Finding]:
        yield Finding(name="first", status="ok", found="fine")
        raise OSError("lib.so: undefined\nsymbol")

    report = examine((broken_part, doctor_checks.bundled_files))
    assert [finding.name for finding in report.findings] == ["first", "broken part", "bundled files"]
    assert report.findings[1].found == "OSError: lib.so: undefined symbol"
    assert report.missing == (report.findings[1],)


def test_it_runs_where_torch_itself_is_broken(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libtorch.so is gone')")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-m", "medcli", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert "libtorch.so is gone" in found["processor"]["found"]
    assert found["disk"]["status"] == "ok"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImportError("No module named 'torchvision'"), "does not import: No module"),
        (RuntimeError("operator torchvision::new does not exist"), "broken: operator"),
        (OSError("libtorchvision.so: undefined symbol"), "broken: lib"),
    ],
)
def test_a_broken_torchvision_is_named(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(torchvision_guard, "import_torchvision", fails)
    finding = only(doctor_checks.torchvision)
    assert finding.status == "missing"
    assert says in finding.found
    assert "Inception" in (finding.disables or "")
    assert run_cli("doctor").code == 0


def test_inception_weights_are_found_missing_damaged_or_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inception_weights, "weights_folder", lambda: tmp_path)
    assert only(doctor_checks.inception_weights).status == "missing"
    path = tmp_path / inception_weights.WEIGHTS_NAME
    path.write_bytes(b"weights")
    damaged = only(doctor_checks.inception_weights)
    assert (damaged.status, damaged.found) == ("missing", f"damaged: {path}")
    monkeypatch.setattr(inception_weights, "WEIGHTS_HASH", hashlib.sha256(b"weights").hexdigest()[:8])
    assert only(doctor_checks.inception_weights).status == "ok"


def test_an_autoencoder_in_the_cache_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(latent_space, "cached_folder", lambda name: tmp_path)
    cut_off = only(doctor_checks.autoencoder)  # a download that ended after the configuration
    assert (cut_off.status, cut_off.found.startswith("no weights of")) == ("missing", True)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    assert only(doctor_checks.autoencoder).status == "ok"

    def gone(name: str) -> Path:
        raise EnvironmentProblem(f"no {name}")

    monkeypatch.setattr(latent_space, "cached_folder", gone)
    lost = only(doctor_checks.autoencoder)
    assert lost.status == "missing"
    assert "--vae" in (lost.remedy or "")


def test_compilation_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    broken = next(doctor_checks.compilation())
    assert (broken.status, broken.disables, "false does not run" in broken.found) == ("missing", "--compile", True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    finding = next(doctor_checks.compilation())
    assert (finding.status, finding.disables) == ("missing", "--compile")
    assert "no-such-compiler" in finding.found


def test_slow_bfloat16_and_idle_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    monkeypatch.setattr(hardware, "_devices", lambda: [torch.device("cpu"), torch.device("cuda")])
    assert [found.remedy for found in doctor_checks.bfloat16()] == ["use --dtype fp32", "use --dtype fp16"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(hardware, "num_cores", lambda: 8)
    finding = only(doctor_checks.processor)
    assert finding.status == "remark"
    assert finding.remedy == "unset OMP_NUM_THREADS, or set it to 8"


def test_a_missing_package_is_named_with_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    held = metadata.version

    def version(name: str) -> str:
        if name == "fvcore":
            raise metadata.PackageNotFoundError(name)
        return held(name)

    monkeypatch.setattr(metadata, "version", version)
    lost = [finding for finding in doctor_checks.versions() if finding.status == "missing"]
    assert [(finding.name, finding.disables, finding.remedy) for finding in lost] == [
        ("fvcore", "flops", "pip install fvcore")
    ]


def test_an_extra_that_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = metadata.version

    def version(name: str) -> str:
        if name in extras.EXTRAS:
            raise metadata.PackageNotFoundError(name)
        return held(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    lost = {finding.name: finding.remedy for finding in doctor_checks.versions() if finding.name in extras.EXTRAS}
    assert lost == {package: f"pip install 'medcli[{extra.name}]'" for package, extra in extras.EXTRAS.items()}
    assert list(doctor_checks.torchvision()) == []  # nothing that is installed imports it


def test_a_package_whose_files_are_gone_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "PIL" else name)
    lost = [finding for finding in doctor_checks.versions() if finding.status == "missing"]
    assert [(finding.name, finding.found) for finding in lost] == [("pillow", "its files are missing")]


def test_a_folder_that_was_removed_and_a_cache_that_is_a_file_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("MEDCLI_CACHE", str(tmp_path / "cache"))
    assert (only(doctor_checks.cache).status, "is a file" in only(doctor_checks.cache).found) == ("missing", True)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert only(doctor_checks.disk).found == "the current folder was removed"


def test_every_package_medcli_depends_on_is_looked_at() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    listed = project.partition("dependencies = [")[2].partition("]")[0].split('"')[1::2]
    for extra in extras.EXTRAS.values():
        listed += project.partition(f"\n{extra.name} = [")[2].partition("]")[0].split('"')[1::2]
    listed = [word for word in listed if ";" not in word or sys.version_info < (3, 11)]  # tomli is for 3.10
    names = {word.split(">")[0].split("=")[0] for word in listed}
    assert names == set(doctor_checks.NEEDED_FOR)


def test_lost_and_damaged_bundled_files_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def path(name: str) -> Path:
        if name == "digits-images.npz":
            raise EnvironmentProblem("gone")
        return held(name)

    held = assets.asset_path
    monkeypatch.setattr(assets, "asset_path", path)
    assert only(doctor_checks.bundled_files).found == "no digits-images.npz"
    cut = tmp_path / "digits-images.npz"
    cut.write_bytes(held("digits-images.npz").read_bytes()[:-1])
    monkeypatch.setattr(assets, "asset_path", lambda name: cut if name == cut.name else held(name))
    finding = only(doctor_checks.bundled_files)
    assert (finding.status, finding.found) == ("missing", "digits-images.npz is damaged")


def test_the_cache_and_the_disk_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_folder: Path
) -> None:
    monkeypatch.setenv("MEDCLI_CACHE", str(tmp_path / "cache"))
    assert only(doctor_checks.cache).found.startswith("0 files, 0.0 MB")
    (tmp_path / "cache" / "digits").mkdir(parents=True)
    (tmp_path / "cache" / "digits" / "one.safetensors").write_bytes(bytes(1_500_000))
    assert only(doctor_checks.cache).found.startswith("1 files, 1.5 MB")
    assert only(doctor_checks.disk).status == "ok"
    monkeypatch.setattr(doctor_checks, "LITTLE_DISK_GIB", 10**9)
    assert only(doctor_checks.disk).status == "remark"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert only(doctor_checks.disk).status == "missing"


def test_kernels_that_do_not_run_are_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_runs_fused", lambda name, device: False)
    finding = next(doctor_checks.fused_attention())
    assert (finding.status, finding.found) == ("missing", "no kernel runs")

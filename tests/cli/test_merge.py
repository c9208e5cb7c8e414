"""`medcli merge`: shards in folders of their own become the folder of one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medcli.cli.app import main
from medcli.engine.pictures import write_png
from medcli.errors import ExitCode
from tests.cli.test_sample_processes import COMMAND, contents_of, lines_of
from tests.conftest import RunCli
from tests.unit.engine.tiny import save

NUM_IMAGES = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, and the same run by one process."""
    folder = tmp_path_factory.mktemp("made")
    save(folder / "tiny.safetensors")
    command = (*COMMAND, "--num-images", str(NUM_IMAGES), "-q")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*command, "-o", "one"]) == 0
        for part in (0, 1):
            assert main([*command, "-o", f"part-{part}", "--shard", f"{part}/2"]) == 0
    return folder


@pytest.fixture
def parts(made: Path, empty_folder: Path) -> tuple[str, ...]:
    shutil.copytree(made, empty_folder, dirs_exist_ok=True)
    return ("part-0", "part-1")


def test_merged_shards_are_the_folder_of_one_process(run_cli: RunCli, parts: tuple[str, ...]) -> None:
    before = [sorted(path.name for path in Path(part).rglob("*")) for part in parts]
    result = run_cli("merge", *parts, "-o", "whole", "--npz", "--json")
    assert result.code == 0, result.err
    assert contents_of(Path("whole")) == contents_of(Path("one"))
    assert lines_of(Path("whole")) == lines_of(Path("one"))
    report, manifests = json.loads(result.out), [read(name) for name in ("whole", "one")]
    for key in ("num_images", "nfe", "gmacs_per_image", "gmacs_done_per_image", "gmacs_dense", "switch_steps_mean"):
        assert report[key] == {"num_images": NUM_IMAGES, **manifests[1]["totals"]}[key]
    assert manifests[0]["settings"] == manifests[1]["settings"]
    assert [session["images"] for session in manifests[0]["sessions"]] == [3, 3]
    assert manifests[0]["totals"]["images_per_sec"] == report["images_per_sec"] > 0
    assert [sorted(path.name for path in Path(part).rglob("*")) for part in parts] == before
    # Again, and into one of the parts: nothing changes.
    assert run_cli("merge", *parts, "-o", "whole", "--npz").code == 0
    assert read("whole") == manifests[0]
    assert run_cli("merge", *parts, "-o", "part-0").code == 0
    assert lines_of(Path("part-0")) == lines_of(Path("one"))
    assert run_cli("merge", "part-0", "--json").code == 0


def read(folder: str) -> dict[str, dict[str, object]]:
    manifest: dict[str, dict[str, object]] = json.loads((Path(folder) / "manifest.json").read_text())
    return manifest


def test_the_largest_number_of_images_is_that_of_the_merged_folder(run_cli: RunCli, parts: tuple[str, ...]) -> None:
    shutil.copytree("one", "more")
    assert run_cli(*COMMAND, "--num-images", str(NUM_IMAGES + 1), "-o", "more").code == 0
    assert run_cli("merge", parts[0], "more", "-o", "whole").code == 0
    assert (read("whole")["num_images"], len(lines_of(Path("whole")))) == (NUM_IMAGES + 1, NUM_IMAGES + 1)


def test_what_is_missing_is_counted_and_made_by_sample(run_cli: RunCli, parts: tuple[str, ...]) -> None:
    (Path(parts[1]) / "000003.png").unlink()
    result = run_cli("merge", *parts, "-o", "whole")
    assert result.code == ExitCode.DATA
    assert "1 of 6 images are in none of the folders" in result.err
    assert run_cli(*COMMAND, "--num-images", str(NUM_IMAGES), "-o", "whole").code == 0
    assert contents_of(Path("whole")) == contents_of(Path("one"))
    assert lines_of(Path("whole")) == lines_of(Path("one"))


def test_folders_of_other_runs_are_refused(run_cli: RunCli, parts: tuple[str, ...]) -> None:
    assert run_cli(*COMMAND, "--num-images", "2", "--seed", "1", "-o", "other").code == 0
    result = run_cli("merge", "part-0", "other", "-o", "whole")
    assert result.code == ExitCode.USAGE
    assert "other holds a run with other settings (--seed)" in result.err
    assert not Path("whole").exists()
    result = run_cli("merge", "part-0", "nothere", "-o", "whole")
    assert result.code == ExitCode.DATA
    assert "nothere holds no manifest.json" in result.err
    assert run_cli("merge").code == ExitCode.USAGE
    shutil.copytree("one", "old")
    manifest = read("old")
    del manifest["run"]["gmacs"]
    (Path("old") / "manifest.json").write_text(json.dumps(manifest))
    result = run_cli("merge", "old", "-o", "whole")
    assert result.code == ExitCode.DATA
    assert "not of this version" in result.err


def test_lines_that_no_run_writes_are_not_merged(run_cli: RunCli, parts: tuple[str, ...]) -> None:
    [path] = Path(parts[1]).glob(".processes/*.jsonl")
    first, *rest = path.read_text().splitlines(keepends=True)
    changes = ({"switch_steps": list(range(1, 8))}, {"gmacs": 1e308}, {"gmacs": 1e-3}, {"label": 9})
    for number, change in enumerate((*changes, {"switch_steps": [10**12]})):
        path.write_text(json.dumps(json.loads(first) | change) + "\n" + "".join(rest))
        result = run_cli("merge", *parts, "-o", f"whole-{number}")
        assert result.code == ExitCode.DATA
        assert "1 of 6 images are in none of the folders" in result.err


def test_pictures_of_another_size_are_not_merged_and_other_pictures_are_noted(
    run_cli: RunCli, parts: tuple[str, ...]
) -> None:
    write_png(Path(parts[1]) / "000003.png", np.zeros((8, 8, 3), np.uint8))
    result = run_cli("merge", "one", *parts, "-o", "whole")
    assert result.code == 0, result.err
    assert "1 images of part-1 are other pictures in whole, which are kept" in result.err
    assert contents_of(Path("whole")).items() <= contents_of(Path("one")).items()
    write_png(Path(parts[1]) / "000003.png", np.zeros((9, 9, 3), np.uint8))
    result = run_cli("merge", *parts, "-o", "second")
    assert "1 of 6 images are in none of the folders" in result.err


def test_manifests_of_other_costs_and_sizes_are_refused(run_cli: RunCli, parts: tuple[str, ...]) -> None:
    for change in ({"resolution_px": 16}, {"run": read("part-1")["run"] | {"gmacs": {"per_pass": [1.0]}}}):
        before = read("part-1")
        (Path("part-1") / "manifest.json").write_text(json.dumps(before | change))
        result = run_cli("merge", *parts, "-o", "whole")
        assert result.code == ExitCode.DATA, result.err
        assert not Path("whole").exists()
        (Path("part-1") / "manifest.json").write_text(json.dumps(before))


def test_a_folder_that_links_to_itself_is_refused(run_cli: RunCli, parts: tuple[str, ...]) -> None:
    Path("loop").symlink_to("loop")
    assert run_cli("merge", "loop", *parts, "-o", "whole").code == ExitCode.ENVIRONMENT
    result = run_cli("merge", *parts, "-o", "loop")
    assert (result.code, result.err.count("\n")) == (ExitCode.ENVIRONMENT, 2), result.err

"""`medcli fid --compare`: several sample sets and earlier reports in one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcli.errors import ExitCode
from tests.cli.test_fid import DIGITS, npz, refused, sample_folder
from tests.conftest import RunCli


@pytest.fixture
def two_folders(empty_folder: Path) -> tuple[Path, Path]:
    worse = sample_folder(empty_folder / "worse", 40)
    for file in sorted(worse.glob("0000*.png"))[:30]:  # one picture again and again
        file.write_bytes((worse / "000000.png").read_bytes())
    return sample_folder(empty_folder / "better", 40), worse


def saved_report(run_cli: RunCli, path: Path, *argv: Any, **changes: Any) -> Path:
    report = json.loads(run_cli("fid", *argv, "--json").out)
    for key, value in changes.items():
        (report if key in report else report["provenance"])[key] = value
    path.write_text(json.dumps(report))
    return path


def test_several_sets_are_scored_as_each_alone(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    found = json.loads(run_cli("fid", "--compare", *two_folders, "--json").out)
    alone = [json.loads(run_cli("fid", folder, "--json").out) for folder in two_folders]
    assert found["rows"] == alone
    assert found["best"]["fid"] == str(two_folders[0])
    assert found["best"]["inception_score"] == str(two_folders[0])
    assert found["differences"] == []


def test_people_see_one_row_a_set_with_errors_directions_and_the_best(
    two_folders: tuple[Path, Path], run_cli: RunCli
) -> None:
    result = run_cli("fid", "--compare", *two_folders, "--metrics", "fid,is")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split() == ["samples", "N", "FID", "↓", "IS", "↑"]
    better, worse = (line for line in lines if "±" in line)
    assert better.count("±") == worse.count("±") == 2
    assert better.count("*") == 2
    assert "*" not in worse
    assert "* best, ~ within two standard errors of it" in result.out


def test_equal_sets_are_not_told_apart(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    copy = two_folders[0].with_name("copy")
    sample_folder(copy, 40)
    result = run_cli("fid", "--compare", two_folders[0], copy, "--metrics", "fid")
    assert next(line for line in result.out.splitlines() if "copy" in line).rstrip().endswith("~")


def test_one_reference_serves_all_sets_and_may_be_named(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    archives = [npz(folder.with_suffix(".npz"), DIGITS[:40]) for folder in two_folders]
    message = refused(run_cli, ExitCode.DATA, "--compare", *archives)
    assert "names no reference" in message
    found = json.loads(run_cli("fid", "--compare", *archives, "--reference", "digits", "--json").out)
    assert [row["reference"] for row in found["rows"]] == ["digits", "digits"]


def test_a_reference_among_the_sets_points_to_its_option(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    assert "--reference digits" in refused(run_cli, ExitCode.USAGE, "--compare", *two_folders, "digits")


def test_sets_of_different_references_need_one_named(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    other = sample_folder(two_folders[0].with_name("other"), 40, reference="elsewhere.npz")
    message = refused(run_cli, ExitCode.DATA, "--compare", two_folders[0], other)
    assert "digits" in message
    assert "elsewhere.npz" in message


def test_an_earlier_report_stands_beside_fresh_scores(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    report = saved_report(run_cli, two_folders[0].with_name("earlier.json"), two_folders[0])
    found = json.loads(run_cli("fid", "--compare", report, two_folders[1], "--json").out)
    assert found["rows"][0] == json.loads(report.read_text())
    assert found["best"]["fid"] == str(two_folders[0])


def test_reports_alone_need_no_images_and_a_comparison_is_a_report(
    two_folders: tuple[Path, Path], run_cli: RunCli
) -> None:
    both = two_folders[0].with_name("both.json")
    both.write_text(run_cli("fid", "--compare", *two_folders, "--json").out)
    one = saved_report(run_cli, both.with_name("one.json"), two_folders[0])
    for folder in two_folders:
        for file in folder.iterdir():
            file.unlink()
    found = json.loads(run_cli("fid", "--compare", both, one, "--json").out)
    assert [row["samples"] for row in found["rows"]] == [str(two_folders[0]), str(two_folders[1]), str(two_folders[0])]


def test_sets_of_different_size_are_refused_before_anything_is_scored(
    two_folders: tuple[Path, Path], run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medcli.workflows.fid.compare.load_yardstick", lambda *_: pytest.fail("a network was loaded"))
    fewer = sample_folder(two_folders[0].with_name("fewer"), 30)
    message = refused(run_cli, ExitCode.CHECK_FAILED, "--compare", two_folders[0], fewer)
    assert f"num_samples is 40 for {two_folders[0]}, 30 for {fewer}" in message
    assert "--num-images" in message
    assert "--force" in message


def test_the_same_number_of_each_compares(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    fewer = sample_folder(two_folders[0].with_name("fewer"), 30)
    result = run_cli("fid", "--compare", two_folders[0], fewer, "--num-images", 30, "--json")
    assert [row["num_samples"] for row in json.loads(result.out)["rows"]] == [30, 30]


@pytest.mark.parametrize("key", ["reference_sha256", "extractor_sha256"])
def test_a_report_of_another_protocol_is_refused_before_anything_is_scored(
    two_folders: tuple[Path, Path], run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    report = saved_report(run_cli, two_folders[0].with_name("r.json"), two_folders[0], **{key: "f" * 64})
    monkeypatch.setattr("medcli.workflows.fid.compare.measure", lambda *_: pytest.fail("samples were scored"))
    message = refused(run_cli, ExitCode.CHECK_FAILED, "--compare", report, two_folders[1])
    assert f"{key} is " in message


def test_force_shows_what_does_not_compare_and_says_so(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    fewer = sample_folder(two_folders[0].with_name("fewer"), 30)
    result = run_cli("fid", "--compare", two_folders[0], fewer, "--force", "--json")
    assert result.code == 0
    (difference,) = json.loads(result.out)["differences"]
    assert "num_samples" in difference
    assert f"not comparable: {difference}" in result.err
    assert "not comparable: num_samples" in run_cli("fid", "--compare", two_folders[0], fewer, "--force").out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "can't be read as JSON"),
        ("[1]", "is no report of medcli fid"),
        ('{"fid": 3.0}', "is no report of medcli fid"),
        ('{"fid": 3.0, "samples": "x"}', "lacks protocol"),
    ],
)
def test_a_file_that_is_no_report_is_named(
    two_folders: tuple[Path, Path], run_cli: RunCli, content: str, message: str
) -> None:
    path = two_folders[0].with_name("odd.json")
    path.write_text(content)
    found = refused(run_cli, ExitCode.DATA, "--compare", two_folders[0], path)
    assert "odd.json" in found
    assert message in found


@pytest.mark.parametrize("key", ["extractor", "reference"])
@pytest.mark.parametrize("change", [lambda report, key: report.pop(key), lambda report, key: report.update({key: 3})])
def test_a_report_without_a_name_that_the_table_shows_is_refused(
    two_folders: tuple[Path, Path], run_cli: RunCli, key: str, change: Callable[[dict[str, Any], str], Any]
) -> None:
    path = saved_report(run_cli, two_folders[0].with_name("r.json"), two_folders[0])
    report = json.loads(path.read_text())
    change(report, key)
    path.write_text(json.dumps(report))
    assert f"r.json: {key} is not a text" in refused(run_cli, ExitCode.DATA, "--compare", path, path)


def test_one_set_is_no_comparison(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    assert "two or more" in refused(run_cli, ExitCode.USAGE, "--compare", two_folders[0])


def test_a_third_argument_points_to_compare(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    assert "add --compare" in refused(run_cli, ExitCode.USAGE, *two_folders, "digits")


def test_markdown_has_one_row_a_set(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    lines = run_cli("fid", "--compare", *two_folders, "--metrics", "fid,is", "--markdown").out.splitlines()
    assert lines[0] == "| samples | N | FID ↓ | IS ↑ |"
    assert lines[1] == "| --- | ---: | ---: | ---: |"
    assert [line.split(" | ")[:2] for line in lines[2:]] == [[f"| {folder}", "40"] for folder in two_folders]
    (line,) = run_cli("fid", two_folders[0], "--metrics", "fid,is", "--markdown").out.splitlines()[2:]
    assert line == lines[2]


def test_a_statistics_file_has_no_known_number_of_samples(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    path = npz(two_folders[0].with_name("s.npz"), mu=np.zeros(64), sigma=np.eye(64))
    message = refused(run_cli, ExitCode.CHECK_FAILED, "--compare", two_folders[0], path, "--reference", "digits")
    assert "unknown for" in message


def test_parts_of_folders_of_different_sizes_are_not_paired(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    """Images 0, 2, 4 ... of one and 0, 1, 2 ... of the other were made from other noise."""
    first, second = two_folders
    sizes = [len(list(folder.glob("*.png"))) for folder in two_folders]
    paired = []
    for num_removed in (0, sizes[1] // 2):
        for file in sorted(second.glob("*.png"))[sizes[1] - num_removed :]:
            file.unlink()
        for folder, size in zip(two_folders, (sizes[0], sizes[1] - num_removed), strict=True):
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest |= {"num_images": size, "settings": {"seed": 3, "labels": {"classes": [1], "sampling": "equal"}}}
            (folder / "manifest.json").write_text(json.dumps(manifest))
        words = ("--compare", first, second, "--num-images", sizes[1] // 2, "--metrics", "precision", "--json")
        rows = json.loads(run_cli("fid", *words).out)["difference_from_best"]["precision"]
        paired.append(any(row["is_paired"] for row in rows))
    assert paired == [True, False]


def test_sets_of_the_same_noise_are_compared_image_by_image(two_folders: tuple[Path, Path], run_cli: RunCli) -> None:
    """A set and the same one with a tenth of its images changed: told apart only where they are paired."""
    first, second = two_folders
    for number, file in enumerate(sorted(first.glob("*.png"))):
        if number % 5:
            (second / file.name).write_bytes(file.read_bytes())
    found = {}
    for seeds in ((3, 3), (3, 4)):
        for folder, seed in zip((first, second), seeds, strict=True):
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["settings"] = {"seed": seed, "labels": {"classes": [1], "sampling": "equal"}}
            (folder / "manifest.json").write_text(json.dumps(manifest))
        report = json.loads(run_cli("fid", "--compare", first, second, "--json").out)
        found[seeds] = report["difference_from_best"]
        errors = [row["standard_errors"] for row in report["rows"]]
        (best,) = [place for place, row in enumerate(found[seeds]["kid"]) if row["standard_error"] is None]
        unpaired = (errors[0]["kid"] ** 2 + errors[1]["kid"] ** 2) ** 0.5
        wanted = {"standard_error": pytest.approx(unpaired), "is_paired": False}
        assert (found[seeds]["kid"][1 - best] == wanted) == (seeds == (3, 4))
    for metric in ("fid", "kid", "inception_score", "recall"):
        paired, apart = (max(row["standard_error"] or 0 for row in found[seeds][metric]) for seeds in ((3, 3), (3, 4)))
        assert paired < apart
        assert any(row["is_paired"] for row in found[3, 3][metric])

"""`medcli demo` and the promises of the bundled model, through the real program."""

import json
from pathlib import Path

import pytest

from medcli.workflows.demo.run import label_agreement

NUM_IMAGES = 40


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One small demo, shared by the tests below; sampled once because it takes some seconds."""
    from medcli.runtime.reporting import Silent
    from medcli.settings.pages import DemoRequest
    from medcli.workflows.demo.run import run_demo

    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, run_demo(DemoRequest(num_images=10, output=folder), Silent()).to_json()


def test_the_demo_compares_the_papers_run_with_few_calls_and_mediators(demo):
    folder, report = demo
    rows = {row["variant"]: row for row in report["rows"]}
    assert list(rows) == ["dense, 250 steps", "dense", "4 early, then dense", "16 mediators", "dynamic"]
    papers, dense, early, static, dynamic = rows.values()
    assert [row["nfe"] for row in rows.values()] == [250, 12, 12, 12, 100]
    assert papers["saving_percent"] == 0
    assert papers["gmacs_per_image"] == pytest.approx(250 / 12 * dense["gmacs_per_image"])
    assert early["gmacs_per_image"] < static["gmacs_per_image"] < dense["gmacs_per_image"]
    assert dynamic["gmacs_per_image"] < 100 / 12 * static["gmacs_per_image"]
    assert (papers["error"], dynamic["error"]) == (None, None)
    assert dense["error"] <= 0.016 < 0.03 < early["error"] < static["error"]
    assert all(row["fid"] > 0 and row["label_agreement_percent"] >= 50 for row in rows.values())
    assert report["num_reference"] == 1797
    for picture in report["pictures"]:
        assert Path(picture).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_demo_again_shows_the_finished_run_without_sampling(demo, run_cli):
    folder, report = demo
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")}
    again = json.loads(run_cli("demo", "--num-images", 10, "-o", folder, "--json").out)
    assert again["rows"] == json.loads(json.dumps(report["rows"]))
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")}


def test_too_few_images_are_refused(run_cli, empty_folder):
    result = run_cli("demo", "--num-images", 3)
    assert result.code == 2
    assert "--num-images" in result.err
    assert list(empty_folder.iterdir()) == []


@pytest.mark.slow
def test_at_its_defaults_the_bundled_model_draws_the_digits_asked_for_and_climbs_its_ladder(run_cli, empty_folder):
    words = ("sample", "--schedule", "dynamic", "--rho", "0.3,0.1", "--num-images", NUM_IMAGES, "-o", "s", "--json")
    report = json.loads(run_cli(*words).out)
    assert label_agreement(empty_folder / "s") >= 0.95
    lines = (empty_folder / "s/images.jsonl").read_text().splitlines()
    moves = [len(json.loads(line)["switch_steps"]) for line in lines]
    assert len(moves) == NUM_IMAGES
    assert sum(count == 2 for count in moves) > 0.9 * NUM_IMAGES  # all three ladder indices
    assert report["gmacs_per_image"] < report["gmacs_dense"]

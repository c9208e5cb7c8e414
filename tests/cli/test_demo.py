"""`medcli demo` and the promises of the bundled model, through the real program."""

import json
from pathlib import Path

import pytest
import torch

from medcli.workflows.demo.run import label_agreement


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One small demo, shared by the tests below; sampled once because it takes some seconds."""
    from medcli.runtime.reporting import Silent
    from medcli.settings.pages import DemoRequest
    from medcli.workflows.demo.run import run_demo

    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, run_demo(DemoRequest(bundle="digits", num_images=10, output=folder), Silent()).to_json()


@pytest.mark.slow
def test_the_demo_compares_the_papers_run_with_few_calls_and_mediators(demo):
    folder, report = demo
    rows = {row["variant"]: row for row in report["rows"]}
    few = ["dense", "4 early, then dense", "4 mediators"]
    assert list(rows) == ["dense, 250 steps", *few, "dynamic", "dense, 16 px", "4 mediators, 16 px"]
    papers, dense, early, static, dynamic, large, large_static = rows.values()
    assert [row["nfe"] for row in rows.values()] == [250, 12, 12, 12, 100, 12, 12]
    assert [row["res"] for row in rows.values()] == [8] * 5 + [16] * 2
    assert papers["saving_percent"] == 0
    assert papers["gmacs_per_image"] == pytest.approx(250 / 12 * dense["gmacs_per_image"])
    assert static["gmacs_per_image"] < early["gmacs_per_image"] < dense["gmacs_per_image"]
    assert dynamic["gmacs_per_image"] < 100 / 12 * dense["gmacs_per_image"]
    assert (papers["error"], dynamic["error"], large["error"], large["fid"]) == (None, None, None, None)
    assert large["saving_percent"] == 0
    assert large_static["saving_percent"] > 100 * (1 - static["gmacs_per_image"] / dense["gmacs_per_image"]) > 0
    assert dense["error"] <= 0.016 < 0.02 < early["error"] < static["error"]  # of four images
    assert all(
        row["fid"] > 0 and row["label_agreement_percent"] >= 50 for row in (papers, dense, early, static, dynamic)
    )
    assert report["num_reference"] == 1797
    for picture in report["pictures"]:
        assert Path(picture).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.slow
def test_the_demo_again_shows_the_finished_run_without_sampling(demo, run_cli):
    folder, report = demo
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")}
    again = json.loads(run_cli("demo", "digits", "--num-images", 10, "-o", folder, "--json").out)
    assert again["rows"] == json.loads(json.dumps(report["rows"]))
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")}


def test_errors_are_of_networks_in_the_precision_of_the_samples(monkeypatch, tmp_path):
    """The bundle is stored in half precision, which is slow on a CPU and as wrong as the errors that are measured."""
    from medcli.checkpoint.reader import describe
    from medcli.data.assets import bundled_model
    from medcli.runtime.reporting import Silent
    from medcli.settings.pages import DemoRequest
    from medcli.workflows.demo import run

    used = set()

    def latents(network, *_args, **_kinds):
        used.update(parameter.dtype for parameter in network.parameters())
        return torch.ones(1, 1, 2, 2)

    monkeypatch.setattr(run, "ladder_networks", lambda model, counts: [model])
    monkeypatch.setattr(run, "fine_latents", latents)
    monkeypatch.setattr(run, "generate", lambda networks, *_args, **_kinds: [networks[0]])
    monkeypatch.setattr(run, "final_latents", lambda made: latents(made[0]))
    request = DemoRequest(bundle="fashion", output=tmp_path)
    variants = run.demo_variants(describe(bundled_model("fashion")).config)
    name = "dense"
    measure = run._Measure("fashion", {name: run._request(request, name, variants[name])}, Silent())
    assert measure._error(name) == 0
    assert used == {torch.float32}


def test_too_few_images_are_refused(run_cli, empty_folder):
    for words, named in ((("--num-images", 3), "--num-images"), (("digitz",), "try digits or fashion")):
        result = run_cli("demo", *words)
        assert result.code == 2
        assert named in result.err
    assert list(empty_folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "least", "num_images"), [("digits", 0.95, 40), ("fashion", 0.75, 12)])
def test_at_its_defaults_a_bundled_model_draws_the_classes_asked_for_and_climbs_its_ladder(
    run_cli, empty_folder, bundle, least, num_images
):
    words = (
        "sample",
        bundle,
        "--schedule",
        "dynamic",
        "--rho",
        "0.3,0.1",
        "--num-images",
        num_images,
        "-o",
        "s",
        "--json",
    )
    report = json.loads(run_cli(*words).out)
    assert label_agreement(empty_folder / "s", bundle) >= least
    lines = (empty_folder / "s/images.jsonl").read_text().splitlines()
    moves = [len(json.loads(line)["switch_steps"]) for line in lines]
    assert len(moves) == num_images
    assert sum(count == 2 for count in moves) > 0.9 * num_images  # all three ladder indices
    assert report["gmacs_per_image"] < report["gmacs_dense"]

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcli.data.bundled_set import bundled_images, bundled_pixels
from medcli.errors import ExitCode
from tests.conftest import RunCli
from tests.unit.engine.tiny import save

DIGITS = bundled_pixels("digits")


def sample_folder(path: Path, num_images: int = 20, **manifest: Any) -> Path:
    """A folder as `medcli sample` leaves it, holding real digits."""
    path.mkdir(parents=True)
    for index in range(num_images):
        Image.fromarray(DIGITS[index]).save(path / f"{index:06d}.png")
    Image.fromarray(DIGITS[0]).save(path / "grid.png")
    manifest = {"reference": "digits", "num_images": num_images, **manifest}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def npz(path: Path, *arrays: Any, **named: Any) -> Path:
    np.savez(path, *arrays, **named)
    return path


def refused(run_cli: RunCli, code: ExitCode, *argv: Any) -> str:
    """Run a command that must fail with one error line and at most one hint; returns both."""
    result = run_cli("fid", *argv)
    assert result.code == code, result
    assert result.out == ""
    lines = result.err.splitlines()
    assert [line.split(":")[0] for line in lines] in (["error"], ["error", "hint"])
    return result.err


def test_without_arguments_the_newest_sample_folder_is_scored(empty_folder: Path, run_cli: RunCli) -> None:
    for age, name in enumerate(["b-newest", "a-older", "c-oldest"]):
        folder = sample_folder(empty_folder / "samples" / name)
        os.utime(folder / "manifest.json", (1000 - age, 1000 - age))
    (empty_folder / "samples" / "no-manifest").mkdir()
    result = run_cli("fid", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["samples"], report["reference"]) == ("samples/b-newest", "digits")
    assert (report["num_samples"], report["num_reference"]) == (20, 1797)
    assert (report["extractor"], report["protocol"]) == ("digits", "adm")
    assert report["fid"] > 0
    assert report["precision"] == 1  # real digits, all of them in the reference


def test_all_digits_against_their_own_reference_score_zero(empty_folder: Path, run_cli: RunCli) -> None:
    path = npz(empty_folder / "all.npz", DIGITS)
    report = json.loads(run_cli("fid", path, "digits", "--json").out)
    assert report["fid"] == pytest.approx(0, abs=1e-6)
    assert (report["precision"], report["recall"]) == (1, 1)
    assert "sfid" not in report


def test_a_set_scored_against_itself_is_remarked_on(empty_folder: Path, run_cli: RunCli) -> None:
    path, other = npz(empty_folder / "a.npz", DIGITS[:70]), npz(empty_folder / "b.npz", DIGITS[70:140])
    words = ("--extractor", "digits", "--metrics", "fid,precision")
    assert "samples and reference are the same images" in run_cli("fid", path, path, *words).err
    assert "the same images" not in run_cli("fid", path, other, *words).err


def test_folder_and_npz_of_the_same_images_score_the_same(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    spread = np.zeros((25, *DIGITS.shape[1:]), np.uint8)
    spread[[place * 25 // 20 for place in range(20)]] = DIGITS[:20]  # those that --num-images 20 takes
    archive = npz(empty_folder / "x.npz", spread)
    first = json.loads(run_cli("fid", folder, "digits", "--json", "--batch-size", "7").out)
    second = json.loads(run_cli("fid", archive, "digits", "--json", "--num-images", "20").out)
    for name in ("fid", "inception_score", "precision", "recall", "kid"):
        assert first[name] == pytest.approx(second[name], rel=1e-5)


def test_only_the_metrics_asked_for_are_reported(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    report = json.loads(run_cli("fid", folder, "--metrics", "is,sfid", "--json").out)
    assert report["inception_score"] > 1
    assert report["sfid"] is None
    assert report["unavailable"] == {"sfid": "the digits extractor has no spatial layer"}
    assert not {"fid", "kid", "precision", "recall"} & set(report)


def test_people_see_a_table_and_a_warning_about_few_samples(empty_folder: Path, run_cli: RunCli) -> None:
    result = run_cli("fid", sample_folder(empty_folder / "x"))
    for word in ("FID", "KID", "lower", "higher", "digits (1,797 images)", "(20 images)"):
        assert word in result.out
    assert "FID of 20 samples with 64 features" in result.err


def test_an_image_set_is_a_reference_read_with_the_extractor_the_samples_name(
    empty_folder: Path, run_cli: RunCli
) -> None:
    folder = sample_folder(empty_folder / "x")
    report = json.loads(run_cli("fid", folder, npz(empty_folder / "r.npz", DIGITS[:50]), "--json").out)
    assert (report["extractor"], report["num_reference"]) == ("digits", 50)


def test_an_npz_beside_a_manifest_is_scored_against_its_reference(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    report = json.loads(run_cli("fid", npz(folder / "samples.npz", DIGITS[:20]), "--json").out)
    assert (report["reference"], report["num_samples"]) == ("digits", 20)


def test_statistics_alone_give_fid_and_reasons(empty_folder: Path, run_cli: RunCli) -> None:
    reference = npz(empty_folder / "r.npz", mu=np.zeros(64), sigma=np.eye(64))
    options = ("--extractor", "digits", "--metrics", "fid,precision,kid", "--json")
    report = json.loads(run_cli("fid", sample_folder(empty_folder / "x"), reference, *options).out)
    assert report["fid"] > 0
    assert report["num_reference"] is None
    assert report["precision"] is report["kid"] is None
    assert "statistics only" in report["unavailable"]["precision"]


def test_an_adm_reference_gives_statistics_to_fid_and_images_to_precision(empty_folder: Path, run_cli: RunCli) -> None:
    reference = npz(empty_folder / "r.npz", DIGITS[:30], mu=np.zeros(64), sigma=np.eye(64))
    folder = sample_folder(empty_folder / "x")
    report = json.loads(run_cli("fid", folder, reference, "--json").out)
    alone = npz(empty_folder / "s.npz", mu=np.zeros(64), sigma=np.eye(64))
    by_statistics = json.loads(run_cli("fid", folder, alone, "--metrics", "fid", "--json").out)
    by_images = json.loads(
        run_cli("fid", folder, npz(empty_folder / "i.npz", DIGITS[:30]), "--metrics", "precision,kid", "--json").out
    )
    assert report["num_reference"] == 30
    assert report["fid"] == by_statistics["fid"]
    assert (report["precision"], report["kid"]) == (by_images["precision"], by_images["kid"])


def test_nothing_to_score_points_to_sample(empty_folder: Path, run_cli: RunCli) -> None:
    assert "hint: run medcli sample" in refused(run_cli, ExitCode.DATA)


def test_samples_that_name_no_reference_ask_for_one(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x", reference=None)
    assert f"medcli fid {folder} REFERENCE" in refused(run_cli, ExitCode.DATA, folder)


def test_a_misspelt_reference_suggests_the_near_one(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    assert "hint: did you mean digits?" in refused(run_cli, ExitCode.DATA, folder, "digts")


@pytest.mark.parametrize("name", ["none", "none.npz"])
def test_missing_samples_are_named(empty_folder: Path, run_cli: RunCli, name: str) -> None:
    assert f"no such file or folder: {name}" in refused(run_cli, ExitCode.DATA, name, "digits")


def test_an_empty_folder_is_named(empty_folder: Path, run_cli: RunCli) -> None:
    (empty_folder / "x").mkdir()
    assert "x holds no images" in refused(run_cli, ExitCode.DATA, "x", "digits")


def test_one_image_is_too_few(empty_folder: Path, run_cli: RunCli) -> None:
    message = refused(run_cli, ExitCode.DATA, sample_folder(empty_folder / "x", 1), "digits")
    assert "scores need at least 2" in message


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": DIGITS[:4] / np.float32(255)}, "float32"),
        ({"labels": np.arange(4)}, "found: labels"),
        ({"arr_0": np.array([None])}, "pickled objects are never read"),
    ],
)
def test_an_npz_that_holds_no_images_says_what_it_holds(
    empty_folder: Path, run_cli: RunCli, arrays: dict[str, Any], message: str
) -> None:
    assert message in refused(run_cli, ExitCode.DATA, npz(empty_folder / "x.npz", **arrays), "digits")


def test_a_truncated_npz_is_named(empty_folder: Path, run_cli: RunCli) -> None:
    path = npz(empty_folder / "x.npz", DIGITS[:40])
    path.write_bytes(path.read_bytes()[:3000])
    assert "x.npz is not a whole" in refused(run_cli, ExitCode.DATA, path, "digits")


def test_an_empty_png_is_named(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    (folder / "000007.png").write_bytes(b"")
    assert "000007.png is empty" in refused(run_cli, ExitCode.DATA, folder)


def test_missing_inception_weights_name_the_file_and_the_option(
    empty_folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(empty_folder))
    folder = sample_folder(empty_folder / "x", reference=None)
    message = refused(run_cli, ExitCode.ENVIRONMENT, folder, folder)
    assert "weights-inception-2015-12-05-6726825d.pth" in message
    assert "--extractor-weights" in message


def test_statistics_of_another_extractor_are_refused(empty_folder: Path, run_cli: RunCli) -> None:
    reference = npz(empty_folder / "r.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    message = refused(run_cli, ExitCode.DATA, sample_folder(empty_folder / "x"), reference)
    assert "2048" in message
    assert "64 pool features" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metrics", "fid,lpips"), "--metrics 'lpips'"),
        (("--extractor", "dino"), "holds digits features, not dino"),
        (("--num-images", "1"), "--num-images"),
    ],
)
def test_wrong_options_are_usage_errors(
    empty_folder: Path, run_cli: RunCli, options: tuple[str, str], message: str
) -> None:
    assert message in refused(run_cli, ExitCode.USAGE, sample_folder(empty_folder / "x"), "digits", *options)


def test_more_images_than_there_are_can_not_be_scored(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    assert "holds 20 images, 30 were asked for" in refused(run_cli, ExitCode.DATA, folder, "--num-images", 30)


@pytest.mark.parametrize("count", ["many", None, 1.5])
def test_a_manifest_with_an_odd_count_of_images_is_damaged(empty_folder: Path, run_cli: RunCli, count: object) -> None:
    folder = sample_folder(empty_folder / "a")
    (folder / "manifest.json").write_text(json.dumps({"reference": "digits", "num_images": count}))
    assert "num_images" in refused(run_cli, ExitCode.DATA, folder)


def test_a_warning_never_stands_before_an_error(empty_folder: Path, run_cli: RunCli) -> None:
    """Twenty samples are too few, but there is nothing to score at all."""
    folder = sample_folder(empty_folder / "a")
    assert "no spatial layer" in refused(run_cli, ExitCode.DATA, folder, "digits", "--metrics", "sfid")


def test_every_score_comes_with_a_standard_error_and_how_it_was_found(empty_folder: Path, run_cli: RunCli) -> None:
    report = json.loads(run_cli("fid", sample_folder(empty_folder / "x", 60), "--json").out)
    names = {"fid", "inception_score", "precision", "recall", "kid"}
    assert set(report["standard_errors"]) == set(report["standard_error_methods"]) == names
    assert all(isinstance(report[name], float | int) for name in names)
    assert 0 < report["standard_errors"]["fid"] < report["fid"]
    assert report["standard_error_methods"]["fid"] == "jackknife over 60 random blocks"
    table = run_cli("fid", "x").out
    assert f"{report['fid']:.2f} ± {report['standard_errors']['fid']:.2f}" in table
    assert "ADM" not in table  # whose scores are of Inception


def test_the_report_holds_what_the_numbers_rest_on(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    report = json.loads(run_cli("fid", folder, "--json").out)
    assert report["protocol_details"]["extractor"] == "digits"
    provenance = report["provenance"]
    hashes = ("extractor_sha256", "samples_sha256", "reference_sha256", "reference_images_sha256")
    assert all(len(provenance[name]) == 64 for name in hashes)
    assert {"medcli", "torch", "numpy"} < set(provenance)
    same = json.loads(run_cli("fid", npz(empty_folder / "x.npz", DIGITS[:20]), "digits", "--json").out)
    assert same["provenance"]["samples_sha256"] == provenance["samples_sha256"]
    Image.fromarray(DIGITS[500]).save(folder / "000003.png")
    changed = json.loads(run_cli("fid", folder, "--json").out)
    assert changed["provenance"]["samples_sha256"] != provenance["samples_sha256"]


def test_references_of_other_statistics_have_other_hashes(empty_folder: Path, run_cli: RunCli) -> None:
    folder, found = sample_folder(empty_folder / "x"), []
    for scale in (1, 1, 2):
        reference = npz(empty_folder / "r.npz", mu=np.zeros(64), sigma=scale * np.eye(64))
        report = json.loads(run_cli("fid", folder, reference, "--metrics", "fid", "--json").out)
        found.append(report["provenance"]["reference_sha256"])
        assert report["provenance"]["reference_images_sha256"] is None
    assert found[0] == found[1] != found[2]


def test_fid_is_extrapolated_on_request(empty_folder: Path, run_cli: RunCli) -> None:
    samples = npz(empty_folder / "x.npz", DIGITS[:700])
    report = json.loads(run_cli("fid", samples, "digits", "--metrics", "fid", "--extrapolate", "--json").out)
    assert report["fid_infinity"] < report["fid"]
    assert report["standard_errors"]["fid_infinity"] >= report["standard_errors"]["fid"]
    assert len(report["extrapolation"]["num_samples"]) == len(report["extrapolation"]["fid"]) == 15
    assert "FID, N to infinity" in run_cli("fid", samples, "digits", "--metrics", "fid", "--extrapolate").out


def test_too_few_samples_to_extrapolate_are_refused_before_the_network_runs(
    empty_folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medcli.workflows.fid.scoring.features_of", lambda *_: pytest.fail("the network ran"))
    message = refused(run_cli, ExitCode.DATA, sample_folder(empty_folder / "x"), "--extrapolate")
    assert "20 samples are too few to extrapolate FID over 64 features, 640 are needed" in message


def test_statistics_can_not_be_extrapolated(empty_folder: Path, run_cli: RunCli) -> None:
    samples = npz(empty_folder / "s.npz", mu=np.zeros(64), sigma=np.eye(64))
    assert "ready statistics" in refused(run_cli, ExitCode.DATA, samples, "digits", "--extrapolate")


def test_extrapolation_is_about_fid(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    assert "add fid to --metrics" in refused(run_cli, ExitCode.USAGE, folder, "--metrics", "kid", "--extrapolate")


def test_two_references_are_one_too_many(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    assert "two references" in refused(run_cli, ExitCode.USAGE, folder, "digits", "--reference", "digits")
    assert run_cli("fid", folder, "--reference", "digits").code == 0


def test_labels_sorted_by_class_are_noticed_where_blocks_feel_them(
    empty_folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medcli.workflows.fid.scoring.BLOCK_SIZE", 50)
    by_label = np.concatenate([DIGITS[:500][bundled_images("digits")[1][:500] == digit] for digit in range(10)])
    for images, is_noticed in ((by_label, True), (DIGITS[:500], False)):
        result = run_cli("fid", npz(empty_folder / "x.npz", images), "digits", "--metrics", "is")
        assert ("labels sorted by class" in result.err) == is_noticed
        assert "last block" not in result.err
    result = run_cli("fid", npz(empty_folder / "x.npz", DIGITS[:510]), "digits", "--metrics", "is")
    assert "the last block of the Inception Score holds 10 images, not 50" in result.err
    assert "score 500 with --num-images" in result.err


def test_a_result_for_something_without_signs_is_ascii(
    empty_folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sample_folder(empty_folder / "x")
    assert "↓" in run_cli("fid", folder, "--markdown").out
    monkeypatch.setattr("medcli.cli.fid.sign", lambda _wanted, plain: plain)
    assert "FID (lower)" in run_cli("fid", folder, "--markdown").out
    assert "+-" in run_cli("fid", folder, "--markdown").out


def test_features_are_kept_and_found_again_whatever_form_the_images_have(
    empty_folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = json.loads(run_cli("fid", sample_folder(empty_folder / "x"), "--cache-dir", "kept", "--json").out)
    assert list(Path("kept").rglob("*.safetensors"))
    monkeypatch.setattr("medcli.scores.classifier.ClassifierExtractor.run", lambda *_: pytest.fail("the network ran"))
    archive = npz(empty_folder / "y.npz", DIGITS[:20])
    second = json.loads(run_cli("fid", archive, "digits", "--cache-dir", "kept", "--json").out)
    for name in ("fid", "kid", "standard_errors", "provenance"):
        assert first[name] == second[name]


def test_changed_images_under_the_same_path_are_scored_anew(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    first = json.loads(run_cli("fid", folder, "--json").out)
    Image.fromarray(DIGITS[500]).save(folder / "000003.png")
    assert json.loads(run_cli("fid", folder, "--json").out)["fid"] != first["fid"]


def test_nothing_is_kept_without_a_cache(empty_folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDCLI_CACHE", "kept")
    folder = sample_folder(empty_folder / "x")
    first = json.loads(run_cli("fid", folder, "--no-cache", "--json").out)
    assert not Path("kept").exists()
    assert json.loads(run_cli("fid", folder, "--json").out) == first
    assert Path("kept").exists()


def test_several_workers_give_the_scores_of_one(empty_folder: Path, run_cli: RunCli) -> None:
    samples = npz(empty_folder / "x.npz", DIGITS[:1500])  # two shards
    one, two = (
        json.loads(run_cli("fid", samples, "digits", "--no-cache", "--workers", count, "--json").out)
        for count in (1, 2)
    )
    for name in ("fid", "inception_score", "precision", "recall", "kid"):
        assert one[name] == pytest.approx(two[name], rel=1e-9)
        assert one["standard_errors"][name] == pytest.approx(two["standard_errors"][name], rel=1e-6)


def test_weights_are_either_given_or_fetched(empty_folder: Path, run_cli: RunCli) -> None:
    folder = sample_folder(empty_folder / "x")
    message = refused(run_cli, ExitCode.USAGE, folder, "--download", "--extractor-weights", "w.pth")
    assert "leave one out" in message


def test_weights_are_fetched_only_when_asked(
    empty_folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setenv("TORCH_HOME", str(empty_folder))
    monkeypatch.setattr("medcli.workflows.fid.features.download_inception", lambda **given: asked.append(given))
    archive = npz(empty_folder / "x.npz", DIGITS[:20])
    refused(run_cli, ExitCode.ENVIRONMENT, archive, archive)
    assert not asked
    refused(run_cli, ExitCode.ENVIRONMENT, archive, archive, "--download")  # the stand-in fetches nothing
    assert len(asked) == 1


def test_a_run_folder_and_its_state_are_sampled_and_scored(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "tiny.safetensors")
    run = ("--data", "digits", "--steps", 2, "--global-batch-size", 2, "--preview-every", 0, "-o", "runs/a")
    assert run_cli("finetune", "tiny.safetensors", *run).code == 0
    state = max(Path("runs/a").glob("state-*.safetensors"))
    stopped = run_cli("fid", state)
    assert (stopped.code, len(stopped.err.splitlines())) == (ExitCode.DATA, 2)
    assert "names no reference" in stopped.err
    assert not Path("samples").exists()
    scored = [
        json.loads(run_cli("fid", path, "--num-images", 6, "--metrics", "fid", "--json", *more).out)
        for path, more in (("runs/a", ()), (state, ("--reference", "digits")))
    ]
    assert [each["num_samples"] for each in scored] == [6, 6]
    assert scored[0]["samples"] == "samples/a-checkpoint-0"
    assert scored[1]["samples"] == f"samples/a-{state.stem}-0"
    assert scored[0]["fid"] == pytest.approx(scored[1]["fid"])  # the averages of the last step are the finished model


def test_the_scored_part_is_spread_evenly_or_drawn_by_a_seed(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "tiny.safetensors", reference="digits")
    assert run_cli("sample", "tiny.safetensors", "--steps", 2, "--num-images", 12, "-o", "s").code == 0

    def fid(*words: object) -> float:
        result = run_cli("fid", "s", "--metrics", "fid", "--json", *words)
        assert result.code == 0, result.err
        return json.loads(result.out)["fid"]

    part = ("--num-images", 5)
    assert fid(*part, "--seed", 1) == fid(*part, "--seed", 1)
    assert len({fid(*part), fid(*part, "--seed", 1), fid(*part, "--seed", 2)}) == 3
    idle = run_cli("fid", "s", "--seed", 1)
    assert (idle.code, "--seed does nothing without --num-images" in idle.err) == (ExitCode.USAGE, True), idle.err

"""`medcli sample` as a user meets it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import medcli
from medcli.config import ModelConfig
from medcli.data.images import to_uint8
from medcli.engine.generate import generate
from medcli.engine.plan import SamplingPlan
from medcli.engine.sample_folder import SampleFolder
from medcli.errors import ExitCode
from medcli.model.absorption import absorbed_saving
from medcli.workflows.sample import generate as sample_generate
from tests.conftest import Result, RunCli
from tests.unit.data.test_autoencoder import save_tiny_autoencoder
from tests.unit.engine.tiny import PIXELS, RHO, save, with_ladder

QUICK = ("--steps", "12", "--device", "cpu")
DYNAMIC = ("--schedule", "dynamic", "--rho", ",".join(map(str, RHO)))
KEYS = {
    "output",
    "num_images",
    "nfe",
    "gmacs_per_image",
    "gmacs_done_per_image",
    "gmacs_dense",
    "seconds",
    "images_per_sec",
    "switch_steps_mean",
    "amm",
}

Sample = Callable[..., Result]


@pytest.fixture
def checkpoint(empty_folder: Path) -> Path:
    return save(empty_folder / "tiny.safetensors", reference="digits")


@pytest.fixture
def sample(run_cli: RunCli, checkpoint: Path) -> Sample:
    """`medcli sample tiny.safetensors` with few steps."""
    return lambda *argv: run_cli("sample", checkpoint, *QUICK, *argv)


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.png")}


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    return sorted(lines, key=lambda line: int(line["index"]))


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def refused(result: Result, code: ExitCode, *words: str) -> None:
    """One error line, one hint, nothing on stdout."""
    assert result.code == code, result
    assert result.out == ""
    assert [line.split(":")[0] for line in result.err.splitlines()] == ["error", "hint"], result.err
    for word in words:
        assert word in result.err


def test_a_folder_holds_what_the_contract_names(sample: Sample) -> None:
    result = sample(*DYNAMIC, "--num-images", "12", "--npz", "--json", "-o", "out")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report.keys() == KEYS
    out = Path("out")
    names = {f"{index:06d}.png" for index in range(12)}
    assert {file.name for file in out.iterdir()} == names | {"grid.png", "manifest.json", "images.jsonl", "samples.npz"}
    lines = records(out)
    assert [line.keys() for line in lines] == [{"index", "label", "file", "switch_steps", "gmacs"}] * 12
    assert [(line["index"], line["label"], line["file"]) for line in lines] == [
        (index, index % 10, f"{index:06d}.png") for index in range(12)
    ]
    with np.load(out / "samples.npz") as archive:
        expected = np.stack([np.asarray(Image.open(out / line["file"])) for line in lines])
        assert expected.shape == (12, 8, 8, 3)
        assert np.array_equal(archive["arr_0"], expected)
    assert manifest(out)["reference"] == manifest(out)["extractor"] == "digits"
    totals = manifest(out)["totals"]
    assert len(totals.pop("gmacs_per_pass")) == 3  # one a ladder index
    assert totals == {key: report[key] for key in KEYS - {"output", "num_images", "amm"}}


def test_costs_are_those_of_the_calls_each_image_made(sample: Sample, checkpoint: Path) -> None:
    report = json.loads(sample(*DYNAMIC, "--num-images", "10", "--cfg-scale", "2", "--json", "-o", "out").out)
    config = medcli.load(checkpoint).config
    macs = {count: medcli.count_macs(config, num_mediators=count) for count in (0, 1, 4, 16)}
    saved = {count: absorbed_saving(config, num_mediators=count) for count in (1, 4, 16)}
    assert saved[1] > saved[4] > 0
    done = []
    assert report["nfe"] == 12
    assert report["gmacs_dense"] == pytest.approx(12 * 2 * macs[0] / 1e9)
    for line in records(Path("out")):
        first, second = [*line["switch_steps"], 11, 11][:2]
        calls = {1: first + 1, 4: second - first, 16: 11 - second}
        assert line["gmacs"] == pytest.approx(sum(2 * calls[n] * macs[n] for n in calls) / 1e9, rel=1e-4, abs=1e-6)
        done.append(sum(2 * calls[n] * (macs[n] - saved[n]) for n in calls) / 1e9)
    lines = records(Path("out"))
    assert report["gmacs_per_image"] == pytest.approx(np.mean([line["gmacs"] for line in lines]))
    assert report["gmacs_done_per_image"] == pytest.approx(np.mean(done), rel=1e-9)
    moved = [line["switch_steps"][0] for line in lines if line["switch_steps"]]
    assert report["switch_steps_mean"][0] == pytest.approx(np.mean(moved))
    assert len({tuple(line["switch_steps"]) for line in lines}) > 1


def test_guidance_in_an_interval_costs_what_it_runs_and_is_on_record(sample: Sample, checkpoint: Path) -> None:
    command = ("--schedule", "static", "--mediators", "4", "--num-images", "3", "--cfg-scale", "2", "--json")
    results = {ends: sample(*command, "--cfg-interval", ends, "-o", ends) for ends in ("0,1", "0.25,0.5")}
    reports = {ends: json.loads(result.out) for ends, result in results.items()}
    macs = medcli.count_macs(medcli.load(checkpoint).config, num_mediators=4)
    passes = {"0,1": 24, "0.25,0.5": 15}
    for ends, report in reports.items():
        assert report["nfe"] == 12
        assert report["gmacs_per_image"] == pytest.approx(passes[ends] * macs / 1e9, rel=1e-6)
        assert report["gmacs_dense"] / reports["0,1"]["gmacs_dense"] == pytest.approx(passes[ends] / 24)
    sample(*command, "-o", "guided", "--cfg-scale", "2")
    assert hashes(Path("guided")) == hashes(Path("0,1"))
    assert manifest(Path("0.25,0.5"))["settings"]["guidance"]["interval"] == [0.25, 0.5]
    refused(sample(*command, "--cfg-interval", "0.25,0.6", "-o", "0.25,0.5"), ExitCode.USAGE, "(--cfg-interval)")
    refused(sample(*command, "--cfg-interval", "0.5,0.5", "-o", "never"), ExitCode.USAGE, "--cfg-interval")


def test_a_person_sees_totals_switch_steps_and_what_to_run_next(sample: Sample) -> None:
    result = sample(*DYNAMIC, "-o", "out")
    assert result.code == 0
    assert "wrote out" in result.out
    assert "1 to 4" in result.out
    assert "16 of 16" in result.out
    assert "MACs (executed)" in " ".join(result.out.split())
    assert "hint: medcli fid out" in result.err
    assert sample("--schedule", "full", "-o", "full", "-q").err == ""


def test_the_same_command_again_changes_nothing(sample: Sample) -> None:
    first = sample(*DYNAMIC, "--npz", "--json", "-o", "out")
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in Path("out").iterdir()}
    again = sample(*DYNAMIC, "--npz", "--json", "-o", "out")
    assert again.code == 0
    assert again.out == first.out
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in Path("out").iterdir()} == before


def test_an_interrupted_run_is_finished_bit_for_bit(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (*DYNAMIC, "--num-images", "20", "--batch-size", "4", "--npz")
    assert sample(*command, "-o", "whole").code == 0
    add, made = SampleFolder.add, []

    def stop_at_seven(self: SampleFolder, *args: Any) -> None:
        if len(made) >= 7:
            raise KeyboardInterrupt
        add(self, *args)
        made.append(args)

    with monkeypatch.context() as patched:
        patched.setattr(SampleFolder, "add", stop_at_seven)
        stopped = sample(*command, "-o", "parts")
    assert stopped.code == ExitCode.INTERRUPTED
    assert len(stopped.err.splitlines()) == 2
    assert 7 <= len(hashes(Path("parts"))) < 20
    assert "totals" not in manifest(Path("parts"))
    kept = {file.name: file.stat().st_mtime_ns for file in Path("parts").glob("*.png")}
    assert sample(*command, "-o", "parts").code == 0
    assert hashes(Path("parts")) == hashes(Path("whole"))
    assert records(Path("parts")) == records(Path("whole"))
    assert (Path("parts") / "samples.npz").read_bytes() == (Path("whole") / "samples.npz").read_bytes()
    assert {name: (Path("parts") / name).stat().st_mtime_ns for name in kept} == kept


def test_more_images_extend_a_run(sample: Sample) -> None:
    sample(*DYNAMIC, "--num-images", "6", "--batch-size", "3", "--npz", "-o", "out")
    before = hashes(Path("out"))
    assert sample(*DYNAMIC, "--num-images", "9", "--batch-size", "3", "-o", "out").code == 0
    after = hashes(Path("out"))
    assert {name: after[name] for name in before if name != "grid.png"} == {
        name: before[name] for name in before if name != "grid.png"
    }
    assert len(records(Path("out"))) == manifest(Path("out"))["num_images"] == 9
    with np.load("out/samples.npz") as archive:  # what was there is kept up to date
        assert len(archive["arr_0"]) == 9
    sample(*DYNAMIC, "--num-images", "9", "--batch-size", "3", "-o", "at-once")
    assert hashes(Path("at-once")) == after


def test_a_run_goes_on_with_the_batches_it_was_made_with(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(stages: Any, plan: SamplingPlan, *args: Any, **options: Any) -> Any:
        sizes.append(plan.batch_size)
        return generate(stages, plan, *args, **options)

    monkeypatch.setattr("medcli.workflows.sample.generate.generate", watched)
    sample("--schedule", "full", "--num-images", "6", "-o", "out")
    sample("--schedule", "full", "--num-images", "9", "-o", "out")
    before = hashes(Path("out"))
    (Path("out") / "000007.png").unlink()
    sample("--schedule", "full", "--num-images", "9", "-o", "out")
    (Path("out") / "000001.png").unlink()
    sample("--schedule", "full", "--num-images", "9", "--batch-size", "2", "-o", "out")
    assert sizes == [6, 3, 3, 2]
    assert hashes(Path("out")).keys() == before.keys()


def test_fewer_images_than_there_are_is_done_already(sample: Sample) -> None:
    first = sample("--num-images", "6", "--schedule", "full", "--json", "-o", "out")
    assert sample("--num-images", "2", "--schedule", "full", "--json", "-o", "out").out == first.out


def test_batch_size_moves_no_pixel_by_more_than_one_level(sample: Sample) -> None:
    sample(*DYNAMIC, "--num-images", "12", "--batch-size", "8", "-o", "reference")
    sample(*DYNAMIC, "--num-images", "12", "--batch-size", "5", "-o", "out")
    for line in records(Path("reference")):
        pair = [np.asarray(Image.open(Path(out) / line["file"])).astype(int) for out in ("reference", "out")]
        assert abs(pair[0] - pair[1]).max() <= 1
    assert records(Path("out")) == records(Path("reference"))


@pytest.mark.parametrize(
    "settings",
    [
        ("--seed", "1"),
        ("--cfg-scale", "2"),
        ("--steps", "13"),
        ("--schedule", "static"),
        ("--classes", "1,2"),
        ("--dtype", "bf16"),
    ],
)
def test_another_run_does_not_mix_into_a_folder(sample: Sample, settings: tuple[str, ...]) -> None:
    sample("--schedule", "full", "-o", "out", "--num-images", "2")
    before = hashes(Path("out"))
    refused(sample("--schedule", "full", "-o", "out", "--num-images", "2", *settings), ExitCode.USAGE, "--output")
    assert hashes(Path("out")) == before


def test_another_checkpoint_of_the_same_name_is_noticed(sample: Sample, checkpoint: Path) -> None:
    sample("--schedule", "full", "-o", "out", "--num-images", "2")
    checkpoint.unlink()
    save(checkpoint, seed=1)
    refused(sample("--schedule", "full", "-o", "out", "--num-images", "2"), ExitCode.USAGE, "checkpoints")


def test_default_folder_names_checkpoint_schedule_and_seed(sample: Sample) -> None:
    report = json.loads(sample("--schedule", "static", "--seed", "7", "--num-images", "1", "--json").out)
    assert report["output"] == "samples/tiny-static-7"
    assert report["switch_steps_mean"] == []
    assert manifest(Path(report["output"]))["settings"]["schedule"] == {"kind": "static", "counts": [16]}


def test_chosen_classes_take_turns_or_are_drawn(sample: Sample) -> None:
    sample("--classes", "3,5", "--num-images", "4", "--schedule", "full", "-o", "equal")
    assert [line["label"] for line in records(Path("equal"))] == [3, 5, 3, 5]
    command = ("--classes", "3,5,8", "--label-sampling", "random", "--num-images", "9", "--schedule", "full")
    sample(*command, "-o", "random")
    sample(*command[:-2], "--schedule", "static", "-o", "again")
    drawn = [line["label"] for line in records(Path("random"))]
    assert set(drawn) <= {3, 5, 8}
    assert drawn != [3, 5, 8] * 3
    assert [line["label"] for line in records(Path("again"))] == drawn


def test_a_flag_beats_the_checkpoint_and_the_checkpoint_beats_the_family(run_cli: RunCli, empty_folder: Path) -> None:
    defaults = {
        "sampler": "sde",
        "solver": "heun",
        "steps": 7,
        "cfg_scale": 2.5,
        "schedule": "dynamic",
        "rho": [0.9, 0.5],
        "warmup_steps": 2,
        "distance": "l2",
    }
    save(empty_folder / "own.safetensors", sampling=defaults)

    def settings(name: str, *argv: str) -> dict[str, Any]:
        result = run_cli("sample", "own.safetensors", "--num-images", "1", "-o", name, *argv)
        assert result.code == 0, result.err
        content: dict[str, Any] = manifest(Path(name))["settings"]
        return content

    own = settings("a")
    assert {key: own["sampler"][key] for key in ("sampler", "solver", "steps")} == {
        "sampler": "sde",
        "solver": "heun",
        "steps": 7,
    }
    assert own["guidance"] == {"scale": 2.5, "channels": None}
    assert own["schedule"] == {
        "kind": "dynamic",
        "counts": [1, 4, 16],
        "rho": [0.9, 0.5],
        "warmup_steps": 2,
        "distance": "l2",
    }
    flags = settings("b", "--steps", "5", "--cfg-scale", "1", "--schedule", "static", "--mediators", "4")
    assert (flags["sampler"]["steps"], flags["sampler"]["solver"]) == (5, "heun")
    assert (flags["guidance"], flags["schedule"]) == (None, {"kind": "static", "counts": [4]})
    # The checkpoint's solver and steps are for its own sampler.
    other = settings("c", "--sampler", "ode", "--schedule", "static")
    assert [other["sampler"][name] for name in ("sampler", "solver", "steps")] == ["ode", "adams3", 20]


def test_a_dit_is_sampled_by_ddpm_unless_told_otherwise(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "dit.safetensors", replace(PIXELS, family="dit", learn_sigma=True))
    result = run_cli("sample", "dit.safetensors", "--steps", "6", "--num-images", "2", "-o", "out", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["nfe"] == 6
    assert manifest(Path("out"))["settings"]["sampler"]["sampler"] == "ddpm"
    refused(run_cli("sample", "dit.safetensors", "--sampler", "sde"), ExitCode.USAGE, "ddpm or ddim")


def test_separately_trained_stages(run_cli: RunCli, empty_folder: Path) -> None:
    for count in (1, 4, 16):
        save(empty_folder / f"n{count}.safetensors", with_ladder(PIXELS, count), seed=count)
    stages = [word for count in (16, 1, 4) for word in ("--stage", f"{count}=n{count}.safetensors")]
    result = run_cli("sample", *stages, *DYNAMIC, *QUICK, "--num-images", "4", "--json")
    assert result.code == 0, result.err
    out = Path(json.loads(result.out)["output"])
    assert out == Path("samples/n1-n4-n16-dynamic-0")
    assert [entry["file"] for entry in manifest(out)["settings"]["checkpoints"]] == [
        f"n{count}.safetensors" for count in (1, 4, 16)
    ]
    save(empty_folder / "more.safetensors", replace(with_ladder(PIXELS, 4), num_classes=11))
    wrong = ["--stage", "1=n1.safetensors", "--stage", "4=more.safetensors", "--rho", "0.9"]
    refused(run_cli("sample", *wrong, *QUICK), ExitCode.USAGE, "classes")
    refused(run_cli("sample", "n1.safetensors", *stages), ExitCode.USAGE, "both")
    refused(run_cli("sample", "--stage", "4=n1.safetensors", *QUICK), ExitCode.USAGE, "ladder")
    refused(run_cli("sample", "--stage", "n1.safetensors"), ExitCode.USAGE, "4=a.safetensors")
    refused(run_cli("sample", *stages[:2], *stages[:2]), ExitCode.USAGE, "twice")


def test_dopri5_counts_its_calls(sample: Sample) -> None:
    result = sample("--sampler", "ode", "--solver", "dopri5", "--schedule", "static", "--json", "--num-images", "4")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["nfe"] > 7
    assert report["nfe"] == int(report["nfe"])
    saved = absorbed_saving(PIXELS, num_mediators=16) / 1e9
    assert report["gmacs_per_image"] - report["gmacs_done_per_image"] == pytest.approx(2 * report["nfe"] * saved)


LATENTS = ModelConfig(family="sit", hidden_size=16, depth=1, num_heads=2, latent_size=4, num_classes=3)


def test_latents_are_decoded_through_the_autoencoder(
    run_cli: RunCli, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(empty_folder / "latent.safetensors", LATENTS)
    save_tiny_autoencoder(empty_folder / "vae")
    command = ("sample", "latent.safetensors", *QUICK, "--num-images", "3")
    result = run_cli(*command, "--vae", "vae", "-o", "out")
    assert result.code == 0, result.err
    assert np.asarray(Image.open("out/000002.png")).shape == (32, 32, 3)
    Path("vae").rename("moved")
    assert run_cli(*command, "--vae", "./moved", "-o", "out").code == ExitCode.DONE  # the same, by content
    save_tiny_autoencoder(empty_folder / "other", seed=1)
    refused(run_cli(*command, "--vae", "other", "-o", "out"), ExitCode.USAGE, "(--vae)")
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(empty_folder))
    refused(run_cli(*command, "-o", "none"), ExitCode.ENVIRONMENT, "--vae PATH")
    assert not Path("none").exists()


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (("--schedule", "dynamic", "--rho", "0.1,0.3"), "must fall"),
        (("--schedule", "dynamic", "--rho", "0.3"), "expected 2"),
        (("--schedule", "dynamic", "--rho", "0.3,x"), "--rho"),
        (("--schedule", "static", "--mediators", "5"), "ladder"),
        (("--schedule", "static", "--mediators", "64"), "1, 4, 16"),
        (("--schedule", "dynamic", "--mediators", "16,4", "--rho", "0.3"), "rise"),
        (("--classes", "3,10"), "0..9"),
        (("--classes", "-1"), "0..9"),
        (("--classes", "three"), "--classes"),
        (("--sampler", "ode", "--solver", "dopri5", "--schedule", "dynamic"), "--solver adams3"),
        (("--sampler", "ode", "--schedule", "dynamic"), "--schedule timed"),
        (("--sampler", "ode", "--solver", "adams2", "--rho", "0.5,0.1"), "--schedule timed"),
        (("--cfg-scale", "-1"), "at least 0"),
        (("--cfg-interval", "0.8,0.2"), "LO <= HI"),
        (("--cfg-interval", "0.2"), "--cfg-interval 0.2,0.8"),
        (("--cfg-interval", "0.2,x"), "--cfg-interval 0.2,0.8"),
        (("--sampler", "ode", "--solver", "dopri5", "--cfg-interval", "0,0.5", "--schedule", "static"), "adams3"),
        (("--schedule", "timed", "--at", "0.6,0.3"), "rise"),
        (("--schedule", "timed", "--at", "0.3"), "1 given, expected 2"),
        (("--schedule", "timed", "--at", "0,1.5"), "(0, 1)"),
        (("--schedule", "timed"), "--at"),
        (("--schedule", "static", "--at", "0.3,0.6"), "--schedule timed"),
        (("--mediators", "full,4", "--schedule", "timed", "--at", "0.5"), "end a ladder"),
        (("--sampler", "ode", "--solver", "exp2"), "adams3"),
        (("--solver", "exp3", "--last-step", "euler"), "does nothing with --solver exp3"),
        (("--vae", "somewhere"), "--vae"),
    ],
)
def test_bad_wishes_are_refused_before_anything_is_written(sample: Sample, argv: tuple[str, ...], word: str) -> None:
    result = sample(*argv)
    assert result.code == ExitCode.USAGE, result
    assert word in result.err
    assert 1 <= len(result.err.splitlines()) <= 2
    assert not Path("samples").exists()


def test_a_missing_or_damaged_checkpoint_is_refused(run_cli: RunCli, empty_folder: Path) -> None:
    (empty_folder / "empty.safetensors").touch()
    for name in ("missing.safetensors", "empty.safetensors"):
        result = run_cli("sample", name)
        assert result.code == ExitCode.CHECKPOINT, result
    assert not Path("samples").exists()


def test_an_unusable_device_or_place_is_the_machines_fault(sample: Sample, empty_folder: Path) -> None:
    refused(sample("--device", "cuda:99"), ExitCode.ENVIRONMENT, "--device cpu")
    (empty_folder / "file").touch()
    refused(sample("-o", "file/out", "--schedule", "full"), ExitCode.ENVIRONMENT, "--output")
    refused(sample("-o", "file", "--schedule", "full"), ExitCode.USAGE, "--output")
    (empty_folder / "folder").mkdir()
    (empty_folder / "folder/thesis.tex").touch()
    refused(sample("-o", "folder", "--schedule", "full"), ExitCode.USAGE, "--output")


def test_a_full_disk_is_found_before_sampling(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(sample("--schedule", "full", "-o", "out"), ExitCode.ENVIRONMENT, "free")
    assert not Path("out").exists()


def test_a_diverging_solver_is_said_so(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "tiny.safetensors")
    result = run_cli("sample", "tiny.safetensors", *QUICK, "--last-step-size", "0.999999", "--diffusion-norm", "1e38")
    refused(result, ExitCode.CHECKPOINT, "NaN")


def test_a_manifest_as_configuration_makes_the_same_run(run_cli: RunCli, empty_folder: Path) -> None:
    words = ("sample", "digits", *DYNAMIC, *QUICK, "--num-images", "2")
    assert run_cli(*words, "-o", "first").code == ExitCode.DONE
    assert run_cli("sample", "--config", "first/manifest.json", "-o", "again").code == ExitCode.DONE
    assert manifest(Path("again"))["settings"] == manifest(Path("first"))["settings"]
    assert (Path("again") / "000001.png").read_bytes() == (Path("first") / "000001.png").read_bytes()


def test_a_batch_that_does_not_fit_the_memory_is_halved_noted_and_recorded(run_cli, empty_folder, monkeypatch):
    monkeypatch.setattr(sample_generate, "fitting_batch_size", lambda networks, plan, device: plan.batch_size // 2)
    sampled = ("sample", "digits", "--schedule", "full", "--sampler", "ode", "--steps", "4")
    words = (*sampled, "-o", "halved", "--batch-size", "4")
    result = run_cli(*words, "--num-images", "4")
    assert result.code == 0, result.err
    assert "batches of 4 images do not fit the memory of cpu: using 2" in result.err
    run = json.loads((empty_folder / "halved/manifest.json").read_text())["run"]
    assert (run["batch_size"], run["batch_size_halved_from"], run["tf32"]) == (2, 4, False)
    # Images of a run are all of one batch size.
    assert run_cli(*words, "--num-images", "4").code == 0
    assert json.loads((empty_folder / "halved/manifest.json").read_text())["run"]["batch_size"] == 2


def test_latents_are_kept_completed_and_trained_on(run_cli: RunCli, sample: Sample) -> None:
    run = ("--num-images", 4, "-o", "s", "--latents", "--schedule", "full")
    assert sample(*run).code == 0
    model = medcli.load("tiny.safetensors")
    pictures = [np.asarray(Image.open(f"s/{index:06d}.png")) for index in range(4)]
    rows = [np.load(f"s/latents/{index:06d}.npy") for index in range(4)]
    assert rows[0].shape == (model.config.in_channels, model.config.latent_size, model.config.latent_size)
    assert all(
        np.array_equal(np.broadcast_to(to_uint8(torch.from_numpy(row)).permute(1, 2, 0), picture.shape), picture)
        for row, picture in zip(rows, pictures, strict=True)
    )
    Path("s/latents/000002.npy").unlink()  # its image counts as missing and is made again
    assert sample(*run[:1], 5, *run[2:]).code == 0
    assert np.allclose(np.load("s/latents/000002.npy"), rows[2], atol=1e-4)
    assert len(json.loads(Path("s/latents/sampled.json").read_text())["labels"]) == 5
    trained = run_cli(
        *("finetune", "tiny.safetensors", "--data", "s/latents", "--steps", 1, "--global-batch-size", 2),
        *("--preview-every", 0, "-o", "run", "--json"),
    )
    assert (trained.code, json.loads(trained.out)["num_images"]) == (0, 5), trained.err


def test_latents_of_images_that_exist_without_them_are_refused(sample: Sample) -> None:
    run = ("--num-images", 2, "-o", "s")
    assert sample(*run).code == 0
    result = sample(*run, "--latents")
    assert (result.code, len(result.err.splitlines())) == (ExitCode.USAGE, 2)
    assert "latents were not kept" in result.err

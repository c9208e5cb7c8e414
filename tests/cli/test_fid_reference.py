"""`medcli fid --write-reference`: making a reference, and scoring against it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medcli.errors import ExitCode
from tests.cli.test_fid import DIGITS, npz, refused, sample_folder
from tests.conftest import RunCli

SCORES = ("fid", "precision", "recall", "kid", "inception_score")


@pytest.fixture
def images(empty_folder: Path) -> Path:
    """Images to make a reference of; their manifest points to the digits extractor."""
    return sample_folder(empty_folder / "images", 90)


def scored(run_cli: RunCli, *argv: Any) -> dict[str, Any]:
    result = run_cli("fid", *argv, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_scores_against_the_file_are_those_against_the_images(images: Path, run_cli: RunCli) -> None:
    target = images.with_name("reference.npz")
    made = scored(run_cli, images, "--write-reference", target)
    assert made["num_images"] == made["num_reference_images"] == 90
    assert (made["output"], made["extractor"]) == (str(target), "digits")
    samples = npz(images.with_name("samples.npz"), DIGITS[100:180])
    against_file, against_images = (scored(run_cli, samples, to, "--extractor", "digits") for to in (target, images))
    for key in SCORES:
        assert against_file[key] == pytest.approx(against_images[key], rel=1e-9)
        assert against_file["standard_errors"][key] == pytest.approx(against_images["standard_errors"][key], rel=1e-6)


def test_the_images_score_zero_against_their_own_reference(images: Path, run_cli: RunCli) -> None:
    target = images.with_name("reference.npz")
    scored(run_cli, images, "--write-reference", target)
    found = scored(run_cli, images, target)
    assert (found["fid"], found["precision"], found["recall"]) == (0, 1, 1)


def test_the_reference_names_its_extractor(images: Path, run_cli: RunCli) -> None:
    target = images.with_name("reference.npz")
    scored(run_cli, images, "--write-reference", target)
    samples = npz(images.with_name("samples.npz"), DIGITS[:20])  # no manifest: Inception would be the next guess
    assert scored(run_cli, samples, target)["extractor"] == "digits"


def test_fewer_images_are_stored_on_request(images: Path, run_cli: RunCli) -> None:
    target = images.with_name("reference.npz")
    assert scored(run_cli, images, "--write-reference", target, "--reference-images", 30)["num_reference_images"] == 30
    with np.load(target) as archive:
        assert archive["arr_0"].shape == (30, 8, 8, 3)
        np.testing.assert_array_equal(archive["arr_0"], DIGITS[:90:3])
    found = scored(run_cli, images, target)
    assert (found["fid"], found["num_reference"]) == (0, 30)


def test_statistics_alone_on_request(images: Path, run_cli: RunCli) -> None:
    target = images.with_name("reference.npz")
    made = scored(run_cli, images, "--write-reference", target, "--reference-images", 0)
    assert "arr_0" not in made["keys"]
    assert scored(run_cli, images, target, "--metrics", "fid,kid")["unavailable"]["kid"].endswith("no images")


def test_people_see_what_was_written_and_what_to_do_next(images: Path, run_cli: RunCli) -> None:
    result = run_cli("fid", images, "--write-reference", "r.npz")
    assert result.out.startswith("wrote r.npz: arr_0, mu, sigma")
    assert "hint: medcli fid SAMPLES r.npz" in result.err


def test_the_images_are_never_replaced(images: Path, run_cli: RunCli) -> None:
    np.savez("s.npz", np.zeros((70, 8, 8, 3), np.uint8))
    words = ("s.npz", "--extractor", "digits", "--write-reference", "s.npz", "--force")
    assert "s.npz is an input of this command" in refused(run_cli, ExitCode.USAGE, *words)


def test_an_existing_file_is_kept_without_force(images: Path, run_cli: RunCli) -> None:
    target = images.with_name("reference.npz")
    target.write_bytes(b"kept")
    assert "already exists" in refused(run_cli, ExitCode.USAGE, images, "--write-reference", target)
    assert target.read_bytes() == b"kept"
    scored(run_cli, images, "--write-reference", target, "--force")
    assert target.stat().st_size > 4


def test_images_of_different_sizes_leave_no_file_behind(images: Path, run_cli: RunCli) -> None:
    Image.new("RGB", (9, 9)).save(images / "000050.png")
    target = images.with_name("reference.npz")
    assert "different sizes" in refused(run_cli, ExitCode.DATA, images, "--write-reference", target)
    assert sorted(path.name for path in images.parent.iterdir()) == ["images"]
    scored(run_cli, images, "--write-reference", target, "--reference-images", 0)


def test_other_weights_than_the_references_are_refused(images: Path, run_cli: RunCli) -> None:
    target = images.with_name("reference.npz")
    scored(run_cli, images, "--write-reference", target)
    with np.load(target) as archive:
        arrays = {key: archive[key] for key in archive.files}
    note = json.loads(str(arrays["medcli"])) | {"extractor_sha256": "0" * 64}
    np.savez(target, **(arrays | {"medcli": np.array(json.dumps(note))}))
    assert "holds features of digits (00000000)" in refused(run_cli, ExitCode.DATA, images, target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("digits",), "REFERENCE does nothing with --write-reference"),
        (("--extrapolate",), "--extrapolate does nothing with --write-reference"),
        (("--compare",), "--compare does nothing with --write-reference"),
        (("--metrics", "fid"), "--metrics does nothing with --write-reference"),
    ],
)
def test_making_a_reference_is_no_scoring(
    images: Path, run_cli: RunCli, options: tuple[str, ...], message: str
) -> None:
    assert message in refused(run_cli, ExitCode.USAGE, images, *options, "--write-reference", "r.npz")


def test_a_name_that_is_no_npz_is_refused(images: Path, run_cli: RunCli) -> None:
    assert "r.npz" in refused(run_cli, ExitCode.USAGE, images, "--write-reference", "r")


def test_stored_images_go_with_a_reference_only(images: Path, run_cli: RunCli) -> None:
    message = refused(run_cli, ExitCode.USAGE, images, "--reference-images", 5)
    assert "--write-reference" in message


def test_statistics_can_not_be_made_into_a_reference(images: Path, run_cli: RunCli) -> None:
    path = npz(images.with_name("s.npz"), mu=np.zeros(64), sigma=np.eye(64))
    assert "ready statistics" in refused(run_cli, ExitCode.DATA, path, "--write-reference", "r.npz")


def save_stripes(folder: Path, classes: int, side_px: int = 8, images: int = 40) -> None:
    """Images of class k have a bright row k."""
    for label in range(classes):
        place = folder / f"class-{label}"
        place.mkdir(parents=True)
        for number in range(images):
            pixels = np.random.default_rng(100 * label + number).integers(0, 60, (side_px, side_px), np.uint8)
            pixels[2 * label] = 255
            Image.fromarray(pixels).save(place / f"{number}.png")


def test_an_extractor_of_ones_own_is_trained_and_scores(run_cli: RunCli, empty_folder: Path) -> None:
    save_stripes(empty_folder / "stripes", 3)
    result = run_cli("fid", "--train-extractor", "stripes", "-o", "own.safetensors", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["num_classes"], report["num_images"], report["num_held_out"]) == (3, 108, 12)
    assert report["held_out_accuracy"] > 0.9
    assert report["sha256"] == hashlib.sha256(Path("own.safetensors").read_bytes()).hexdigest()
    words = ("fid", "stripes/class-0", "stripes", "--extractor", "own.safetensors", "--json")
    scores = json.loads(run_cli(*words).out)
    assert scores["extractor"] == "own"
    assert scores["inception_score"] == pytest.approx(1, abs=0.3)
    # Spread over the classes, a part of the folder is like the whole; its first images are of one class.
    part = run_cli("fid", "stripes", "stripes", "--num-images", 30, *words[3:])
    assert json.loads(part.out)["fid"] < scores["fid"] / 5
    written = run_cli("fid", "stripes", "--write-reference", "r.npz", *words[3:5])
    assert written.code == 0, written.err
    assert json.loads(run_cli("fid", "stripes", "r.npz", *words[3:]).out)["fid"] == pytest.approx(0, abs=1e-3)


def test_an_extractor_of_few_images_is_judged_on_images_it_has_not_seen(run_cli: RunCli, empty_folder: Path) -> None:
    save_stripes(empty_folder / "few", 2, images=4)
    report = json.loads(run_cli("fid", "--train-extractor", "few", "-o", "own.safetensors", "--json").out)
    assert (report["num_images"], report["num_held_out"]) == (6, 2)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_an_extractor_file_may_have_the_name_of_another_extractor(run_cli: RunCli, empty_folder: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    torch.jit.script(Mean()).save("inception.pt")
    save_stripes(empty_folder / "two", 2)
    result = run_cli("fid", "two/class-0", "two/class-1", "--extractor", "inception.pt", "--metrics", "fid", "--json")
    report = json.loads(result.out)
    assert (report["extractor"], report["protocol_details"]["pool_layer"]) == ("inception.pt", "output, 3")


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("--train-extractor", "one"), 4, "one holds images of one class"),
        (("--train-extractor", "none"), 4, "none"),
        (("--train-extractor", "single"), 4, "single holds one image of each class"),
        (("--train-extractor", "two", "-o", "two/class-0/0.png"), 2, "already exists"),
        (("--train-extractor", "two", "-o", "two/class-0/0.png", "--force"), 2, "among the images of two"),
        (("two", "two", "--extractor", "two/class-0/0.png"), 4, "is not a classifier made by medcli"),
        (("two", "two", "--extractor", "dino"), 2, "unknown extractor 'dino'"),
        (("two", "two", "--extractor", "two/class-0/0.png", "--extractor-weights", "x"), 2, "is a file"),
        (("two", "two", "-o", "x"), 2, "--output does nothing without --train-extractor"),
    ],
)
def test_extractors_that_cannot_be_are_refused(
    run_cli: RunCli, empty_folder: Path, words: tuple[str, ...], code: int, error: str
) -> None:
    save_stripes(empty_folder / "one", 1)
    save_stripes(empty_folder / "two", 2)
    save_stripes(empty_folder / "single", 2, images=1)
    result = run_cli("fid", *words)
    assert (result.code, error in result.err) == (code, True), result.err
    assert len(result.err.splitlines()) <= 2

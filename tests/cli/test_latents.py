"""`medcli latents`, as a user sees it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import medcli
from medcli.data.autoencoder import open_encoder
from medcli.data.datasets import open_training_set
from medcli.data.image_set import EncodedSet, read_pixels
from medcli.data.latent_set import LatentSet
from medcli.workflows import latents_encoding
from tests.conftest import Result, RunCli
from tests.unit.data.test_autoencoder import save_tiny_autoencoder
from tests.unit.data.test_external_latents import save_lightning
from tests.unit.data.tiny_data import LATENTS, RES, save_classes, save_image

OPTIONS = ("--vae", "vae", "--res", str(RES), "--shard-size", "4", "--device", "cpu")
NUM_IMAGES = 10


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latents") / "vae"
    save_tiny_autoencoder(path)
    return path


@pytest.fixture
def photos(empty_folder: Path, vae: Path) -> Path:
    """Work beside an autoencoder and ten images of two classes."""
    (empty_folder / "vae").symlink_to(vae, target_is_directory=True)
    return save_classes(empty_folder / "photos", {"cat": 6, "dog": 4}, (40, 50))


def refused(result: Result, code: int, *said: str) -> None:
    assert (result.code, result.out) == (code, "")
    lines = result.err.splitlines()
    assert len(lines) == 2, result.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    for words in said:
        assert words in result.err


def contents_of(folder: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}


def test_the_result_is_told_in_full_and_the_folder_holds_it(run_cli: RunCli, photos: Path) -> None:
    result = run_cli("latents", photos, *OPTIONS, "-o", "out", "--json", "-q")
    assert (result.code, result.err) == (0, "")
    report = json.loads(result.out)
    seconds, rate, mean, std = (report.pop(name) for name in ("seconds", "images_per_sec", "mean", "std"))
    assert report == {
        "output": "out",
        "num_images": NUM_IMAGES,
        "num_classes": 2,
        "num_shards": 3,
        "latent_shape": [4, 4, 4],
        "num_new": NUM_IMAGES,
    }
    assert rate == pytest.approx(NUM_IMAGES / seconds)
    assert len(mean) == len(std) == 4
    assert sorted(contents_of("out")) == [*(f"latents-0000{number}.safetensors" for number in range(3)), "latents.json"]
    index = json.loads(Path("out/latents.json").read_text())
    assert (index["mean"], index["std"], index["flip"], index["scale"]) == (mean, std, True, 0.18215)
    assert index["class_names"] == ["cat", "dog"]
    assert (index["resolution_px"], index["num_images"], index["num_classes"]) == (RES, NUM_IMAGES, 2)


def test_rows_are_the_moments_of_the_cropped_images_and_of_their_mirror_images(run_cli: RunCli, photos: Path) -> None:
    assert run_cli("latents", photos, *OPTIONS, "-o", "out").code == 0
    shards = [load_file(path) for path in sorted(Path("out").glob("*.safetensors"))]
    assert [len(shard["labels"]) for shard in shards] == [4, 4, 2]
    files = [photos / f"cat/{number}.png" for number in range(6)] + [
        photos / f"dog/{number}.png" for number in range(4)
    ]
    pixels_BCYX, encoder = read_pixels(files, RES, 3), open_encoder("vae")
    for name, images_BCYX in (("moments", pixels_BCYX), ("moments_flip", pixels_BCYX.flip(-1))):
        stored = torch.cat([shard[name] for shard in shards])
        assert stored.dtype == torch.float32
        assert torch.allclose(stored, encoder.moments(images_BCYX), atol=1e-5)
    assert torch.cat([shard["labels"] for shard in shards]).tolist() == [0] * 6 + [1] * 4


def test_statistics_are_those_of_what_training_sees(run_cli: RunCli, photos: Path) -> None:
    report = json.loads(run_cli("latents", photos, *OPTIONS, "-o", "out", "--json").out)
    data = open_training_set("out", LATENTS)
    assert isinstance(data, LatentSet)
    picks = torch.arange(NUM_IMAGES).repeat(400)
    latents_BCYX, _ = data.read(picks, torch.arange(len(picks)), 0)
    assert torch.allclose(latents_BCYX.std(dim=(0, 2, 3)), torch.tensor(report["std"]), rtol=0.01)
    assert torch.allclose(latents_BCYX.mean(dim=(0, 2, 3)), torch.tensor(report["mean"]), atol=2e-3)


def test_training_reads_what_it_would_have_encoded(run_cli: RunCli, photos: Path) -> None:
    """Same crop, coin, noise, label and scale, whether images are encoded before or while training."""
    assert run_cli("latents", photos, *OPTIONS, "-o", "out").code == 0
    stored = open_training_set("out", LATENTS)
    encoded = open_training_set(str(photos), LATENTS, autoencoder="vae")
    assert isinstance(encoded, EncodedSet)
    pick_B, position_B = torch.arange(NUM_IMAGES), torch.arange(NUM_IMAGES) + 77
    for there, then in zip(stored.read(pick_B, position_B, 5), encoded.read(pick_B, position_B, 5), strict=True):
        assert torch.allclose(there, then, atol=1e-5)


def test_half_precision_and_no_flips_take_a_quarter_of_the_room(run_cli: RunCli, photos: Path) -> None:
    assert run_cli("latents", photos, *OPTIONS, "-o", "whole").code == 0
    assert run_cli("latents", photos, *OPTIONS, "-o", "small", "--no-flip", "--storage", "fp16").code == 0
    whole, small = (load_file(Path(name) / "latents-00000.safetensors") for name in ("whole", "small"))
    assert set(small) == {"moments", "labels"}
    assert torch.equal(small["moments"], whole["moments"].half())
    pick_B = torch.arange(NUM_IMAGES)
    read_BCYX, _ = open_training_set("small", LATENTS).read(pick_B, pick_B, 0)
    expected_BCYX, _ = open_training_set("whole", LATENTS, flip=False).read(pick_B, pick_B, 0)
    assert torch.allclose(read_BCYX, expected_BCYX, atol=1e-3)


def test_a_second_run_changes_nothing(run_cli: RunCli, photos: Path) -> None:
    words = ("latents", photos, *OPTIONS, "-o", "out", "--json")
    first = json.loads(run_cli(*words).out)
    before, times = contents_of("out"), {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    second = json.loads(run_cli(*words).out)
    assert contents_of("out") == before
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == times
    assert (second["num_new"], second["images_per_sec"]) == (0, None)
    for name in ("num_images", "mean", "std"):
        assert second[name] == first[name]


def test_a_person_sees_channels_and_what_to_run_next(run_cli: RunCli, photos: Path) -> None:
    result = run_cli("latents", photos, *OPTIONS)
    assert result.code == 0
    assert f"wrote photos-latents-{RES}: 10 images of 2 classes, 10 new" in result.out
    assert "latents of 4 x 4 x 4 in 3 shards" in result.out
    assert f"hint: medcli finetune CHECKPOINT --data photos-latents-{RES}" in result.err
    # Random weights make latents of another size than a trained autoencoder.
    assert "expected about 1: is 0.18215 this autoencoder's factor" in result.err


def environment(**more: str) -> dict[str, str]:
    paths = [str(Path(medcli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def started(*words: object, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medcli", *map(str, words)]
    return subprocess.Popen(command, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_run_goes_on_and_loses_one_shard_at_most(run_cli: RunCli, photos: Path) -> None:
    save_classes(photos, {"eel": 60}, (300, 300))
    words = ("latents", photos, *OPTIONS, "-o", "killed")
    process = started(*words)
    while process.poll() is None and len(list(Path("killed").glob("latents-*.safetensors"))) < 3:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was through before it could be killed"
    there = {path: path.stat().st_mtime_ns for path in Path("killed").glob("latents-*.safetensors")}
    assert json.loads(Path("killed/latents.json").read_text())["std"] is None
    (Path("killed") / ".latents-00009.tmp-1.safetensors").write_bytes(b"half")
    report = json.loads(run_cli(*words, "--json").out)
    assert report["num_new"] == report["num_images"] - 4 * len(there)
    assert all(path.stat().st_mtime_ns == then for path, then in there.items())
    assert run_cli("latents", photos, *OPTIONS, "-o", "whole").code == 0
    assert contents_of("killed") == contents_of("whole")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no file locks on this system")
def test_two_processes_share_the_work_and_one_speaks(run_cli: RunCli, photos: Path) -> None:
    save_classes(photos, {"eel": 60}, (200, 200))
    words = ("latents", photos, *OPTIONS, "--json", "-o")
    ranks = [started(*words, "two", RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    (out, err), (other_out, other_err) = (process.communicate() for process in ranks)
    assert [process.returncode for process in ranks] == [0, 0], (err, other_err)
    assert (other_out, other_err) == ("", "")
    alone = json.loads(run_cli(*words, "one").out)
    assert contents_of("two") == contents_of("one")
    together = json.loads(out)
    assert together["std"] == alone["std"]
    assert together["num_images"] == alone["num_images"] == 70


@pytest.mark.parametrize("change", [("--no-flip",), ("--shard-size", "5"), ("--res", "40"), ("--storage", "fp16")])
def test_other_settings_are_refused(run_cli: RunCli, photos: Path, change: tuple[str, ...]) -> None:
    assert run_cli("latents", photos, *OPTIONS, "-o", "out").code == 0
    before = contents_of("out")
    refused(run_cli("latents", photos, *OPTIONS, "-o", "out", *change), 2, "other settings", "--output")
    assert contents_of("out") == before


def test_other_images_and_another_autoencoder_are_refused(run_cli: RunCli, photos: Path) -> None:
    assert run_cli("latents", photos, *OPTIONS, "-o", "out").code == 0
    encoder = open_encoder("vae")
    with torch.no_grad():
        encoder.autoencoder.quant_conv.bias += 1
    encoder.autoencoder.save_pretrained("other")
    refused(
        run_cli("latents", photos, *OPTIONS, "--vae", "other", "-o", "out"), 2, "other settings (autoencoder_sha256)"
    )
    save_image(photos / "dog/9.png")
    refused(run_cli("latents", photos, *OPTIONS, "-o", "out"), 4, "other images (10 of ")


def test_removed_shards_are_made_again(run_cli: RunCli, photos: Path) -> None:
    assert run_cli("latents", photos, *OPTIONS, "-o", "out").code == 0
    before = contents_of("out")
    (Path("out") / "latents-00001.safetensors").unlink()
    assert json.loads(run_cli("latents", photos, *OPTIONS, "-o", "out", "--json").out)["num_new"] == 4
    assert contents_of("out") == before


def test_shards_are_looked_at_a_few_times_each_however_many_they_are(
    run_cli: RunCli, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, has_all_bytes = list[Path](), latents_encoding.has_all_bytes
    monkeypatch.setattr(latents_encoding, "has_all_bytes", lambda path: looks.append(path) or has_all_bytes(path))
    counts = []
    for size in ("5", "1"):
        looks.clear()
        assert run_cli("latents", photos, *OPTIONS, "--shard-size", size, "-o", f"out{size}").code == 0
        counts.append(len(looks) / NUM_IMAGES * int(size))
    assert counts[1] <= counts[0] <= 6


def test_a_shard_of_another_run_is_named(run_cli: RunCli, photos: Path) -> None:
    assert run_cli("latents", photos, *OPTIONS, "-o", "out").code == 0
    assert run_cli("latents", photos, *OPTIONS, "-o", "flat", "--no-flip").code == 0
    shutil.copy("flat/latents-00001.safetensors", "out/latents-00001.safetensors")
    (Path("out") / "latents-00000.safetensors").unlink()
    refused(run_cli("latents", photos, *OPTIONS, "-o", "out"), 4, "latents-00001.safetensors is of another run")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_shard_that_was_cut_is_made_again(run_cli: RunCli, photos: Path, size: int) -> None:
    assert run_cli("latents", photos, *OPTIONS, "-o", "out").code == 0
    before, shard = contents_of("out"), Path("out/latents-00001.safetensors")
    shard.write_bytes(shard.read_bytes()[:size])
    assert json.loads(run_cli("latents", photos, *OPTIONS, "-o", "out", "--json").out)["num_new"] == 4
    assert contents_of("out") == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format_version": 1}', b"\xff"])
def test_an_index_that_can_not_be_read_is_written_again(run_cli: RunCli, photos: Path, content: bytes) -> None:
    assert run_cli("latents", photos, *OPTIONS, "-o", "out").code == 0
    before = contents_of("out")
    Path("out/latents.json").write_bytes(content)
    refused(
        run_cli("finetune", "--data", "out", "--output", "run", "--steps", "1"), 4, "latents.json", "medcli latents"
    )
    assert json.loads(run_cli("latents", photos, *OPTIONS, "-o", "out", "--json").out)["num_new"] == 0
    assert contents_of("out") == before
    Path("out/latents.json").write_bytes(content)
    refused(run_cli("latents", photos, *OPTIONS, "-o", "out", "--no-flip"), 4, "is of another run")


def test_data_that_is_no_labelled_images_is_refused_and_nothing_is_left(run_cli: RunCli, photos: Path) -> None:
    Path("empty").mkdir()
    save_lightning(Path("theirs"))
    assert run_cli("latents", photos, *OPTIONS, "-o", "ours").code == 0
    for data, code, said in (
        ("empty", 4, "holds no images"),
        ("nowhere", 4, "no such data set: nowhere"),
        ("theirs", 4, "holds latents already"),
        ("ours", 4, "holds latents already"),
        ("digits", 2, "trained on as pixels"),
    ):
        refused(run_cli("latents", data, *OPTIONS, "-o", "out"), code, said)
        assert not Path("out").exists()


def test_damaged_images_are_counted_and_named(run_cli: RunCli, photos: Path) -> None:
    for number in (1, 3):
        content = (photos / f"dog/{number}.png").read_bytes()
        (photos / f"dog/{number}.png").write_bytes(content[: len(content) // 2])
    result = run_cli("latents", photos, *OPTIONS, "-o", "out")
    refused(result, 4, "dog/1.png is not a whole image")
    # What was whole before it is kept.
    assert sorted(contents_of("out")) == ["latents-00000.safetensors", "latents.json"]
    (photos / "cat/0.png").write_text("<html>")
    refused(run_cli("latents", photos, *OPTIONS, "-o", "new"), 4, "cat/0.png is not an image of a known format")
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--res", "100"), 2, "error: resolution 100 px is not a multiple of the autoencoder's stride of 8"),
        (("--res", "0"), 2, "error: "),
        (("--vae", "no/such"), 5, "error: the autoencoder no/such is not on this machine"),
        (("--vae", "photos"), 5, "error: photos holds no usable autoencoder"),
        (("--storage", "bf16"), 2, "error: --storage 'bf16': expected one of fp32, fp16"),
        (("--dtype", "fp16"), 2, "error: --dtype fp16 needs a CUDA device"),
        (("--shard-size", "0"), 2, "error: "),
        (("-o", "photos"), 2, "error: photos is not empty and holds no latents"),
        (("-o", "photos/cat/0.png"), 2, "error: photos/cat/0.png is a file"),
        (("--device", "abacus"), 2, "error: unknown device 'abacus'"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    run_cli: RunCli, photos: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    before = sorted(Path().rglob("*"))
    result = run_cli("latents", photos.name, *OPTIONS, *words)
    refused(result, code, said)
    assert sorted(Path().rglob("*")) == before


def test_a_full_disk_is_found_before_encoding(run_cli: RunCli, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(run_cli("latents", photos, *OPTIONS, "-o", "out"), 5, "free")
    assert not Path("out").exists()


def test_an_autoencoder_that_overflows_is_said_so(run_cli: RunCli, photos: Path) -> None:
    encoder = open_encoder("vae")
    with torch.no_grad():
        encoder.autoencoder.quant_conv.bias[0] = 1e5
    encoder.autoencoder.save_pretrained("hot")
    words = ("latents", photos, *OPTIONS, "--vae", "hot", "-o", "out", "--storage", "fp16")
    refused(run_cli(*words), 5, "NaN or infinite latents of", "cat/0.png", "--storage fp32")


def test_each_shard_says_which_run_it_is_of(run_cli: RunCli, photos: Path) -> None:
    assert run_cli("latents", photos, *OPTIONS, "-o", "out").code == 0
    notes = []
    for path in sorted(Path("out").glob("*.safetensors")):
        with safe_open(path, framework="pt") as shard:
            notes.append(json.loads(shard.metadata()["medcli"]))
    assert len({note["identity"] for note in notes}) == 1
    assert [note["count"] for note in notes] == [4 * 2 * 16, 4 * 2 * 16, 2 * 2 * 16]

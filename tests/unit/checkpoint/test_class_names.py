import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import medcli
from medcli.checkpoint.class_names import MAX_NAME, class_numbers, names_for, names_of_id2label
from medcli.checkpoint.header import KEY, Header
from medcli.cli.app import main
from medcli.errors import CheckpointError, ConfigError
from tests.unit.data.tiny_data import save_classes

NAMES = ("Samoyed, Samoyede", "crane", "great_dane", "crane, derrick")
DIT = Path(__file__).parents[2] / "golden" / "data" / "checkpoints" / "diffusers_dit"


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ((3, 0), (3, 0)),
        (("samoyed", 2), (0, 2)),
        (("SAMOYEDE", "Samoyed, Samoyede"), (0, 0)),
        (("great dane", "Great_Dane", "derrick"), (2, 2, 3)),
    ],
)
def test_a_class_is_found_by_each_of_its_names(asked: tuple[int | str, ...], numbers: tuple[int, ...]) -> None:
    assert class_numbers(asked, NAMES) == numbers


@pytest.mark.parametrize(
    ("name", "names", "message", "hint"),
    [
        ("crane", NAMES, "2 classes", "pass one of 1, 3"),
        ("samojed", NAMES, "no class", "samoyed"),
        ("samoyed", (), "have no names", "numbers"),
    ],
)
def test_a_name_of_no_or_several_classes_is_refused(name: str, names: tuple[str, ...], message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        class_numbers((0, name), names)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"1": "b", "0": " a "}, ("a", "b")),
        ({"0": "a", "1": "b" * 999}, ("a", "b" * MAX_NAME)),
        ({"0": "a"}, ()),
        ({"0": "a", "2": "c"}, ()),
        ({"0": "a", "1": 7}, ()),
        ({"0": "a", "1": " "}, ()),
        ({"0": "a", "1": "b", "2": "c"}, ("a", "b")),
        (None, ()),
        ([["0", "a"]], ()),
    ],
)
def test_id2label_names_each_class_or_none(values: object, names: tuple[str, ...]) -> None:
    assert names_of_id2label(values, 2) == names


def test_names_are_taken_of_the_first_that_fits() -> None:
    assert names_for(2, (), ("a", "b"), ("c", "d")) == ("a", "b")
    assert names_for(3, ("a", "b")) == ()


@pytest.mark.parametrize("wrong", ["ab", ["a"], [1, 2], {"0": "a"}])
def test_a_header_with_other_names_is_damaged(wrong: object) -> None:
    config = medcli.ModelConfig(
        family="sit", hidden_size=8, depth=1, num_heads=2, patch_size=2, latent_size=4, in_channels=4, num_classes=2
    )
    metadata = Header(config, "ema", class_names=("a", "b")).to_metadata()
    read = Header.from_metadata(metadata, "x")
    assert read is not None
    assert read.class_names == ("a", "b")
    values = {**json.loads(metadata[KEY]), "class_names": wrong}
    with pytest.raises(CheckpointError, match="damaged medcli header"):
        Header.from_metadata({KEY: json.dumps(values)}, "x")


@pytest.fixture
def lines(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    return capsys


def names_in(file: str, capsys: pytest.CaptureFixture[str]) -> object:
    capsys.readouterr()
    assert main(["inspect", file, "--json"]) == 0
    return json.loads(capsys.readouterr().out).get("class_names")


def test_diffusers_names_survive_both_ways(lines: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(DIT, "dit")
    assert names_in("dit", lines) == list("abcdef")
    assert main(["convert", "dit", "--mediators", "none", "-o", "m.safetensors", "-q"]) == 0
    assert names_in("m.safetensors", lines) == list("abcdef")
    assert main(["convert", "m.safetensors", "--to", "diffusers", "--mediators", "none", "-o", "back", "-q"]) == 0
    assert names_in("back", lines) == list("abcdef")
    medcli.save(medcli.load("m.safetensors"), "saved.safetensors")
    assert names_in("saved.safetensors", lines) == list("abcdef")
    assert main(["convert", "m.safetensors", "--num-classes", "3", "-o", "few.safetensors", "-q"]) == 0
    assert names_in("few.safetensors", lines) is None


def test_names_of_folders_reach_samples_and_the_report(lines: pytest.CaptureFixture[str]) -> None:
    config = medcli.ModelConfig(
        family="sit", hidden_size=8, depth=1, num_heads=2, patch_size=2, latent_size=8, in_channels=3, num_classes=4,
        autoencoder=None, latent_scale=1.0, latent_downsample=1, learn_sigma=False,
    )  # fmt: skip
    model = medcli.new(config)
    medcli.save(model, "m.safetensors")
    save_classes(Path("photos"), dict.fromkeys(("ant", "Bee", "cat", "dog_fish"), 2), (8, 8))
    run = ["finetune", "m.safetensors", "--data", "photos", "--steps", "1", "--global-batch-size", "2", "-q"]
    assert main([*run, "--preview-every", "0", "-o", "r"]) == 0
    trained = "r/checkpoint.safetensors"
    names = ["Bee", "ant", "cat", "dog_fish"]
    assert names_in(trained, lines) == names
    sampled = ["sample", trained, "--sampler", "ode", "--steps", "2", "--num-images", "4", "-q"]
    assert main([*sampled, "--classes", "dog fish,0,cat,ANT", "-o", "named"]) == 0
    assert main([*sampled, "--classes", "3,0,2,1", "-o", "named"]) == 0  # the same run
    manifest = json.loads(Path("named/manifest.json").read_text())
    assert manifest["settings"]["labels"]["classes"] == [3, 0, 2, 1]
    assert manifest["class_names"] == {str(number): name for number, name in enumerate(names)}
    assert main(["report", "named", "-o", "r.html", "-q"]) == 0
    assert 'alt="image 0, class 3 (dog_fish)"' in Path("r.html").read_text()
    assert main([*sampled, "--classes", "bee", "--config", "c.toml", "-o", "x"]) != 0
    Path("c.toml").write_text('classes = ["bee", 2]\n')
    assert main([*sampled, "--config", "c.toml", "-o", "listed"]) == 0
    assert json.loads(Path("listed/manifest.json").read_text())["settings"]["labels"]["classes"] == [0, 2]
    loaded = medcli.load(trained)
    asked = {"num_images": 2, "sampler": "ode", "steps": 2, "decode": False}
    assert medcli.sample(loaded, classes=["bee", 3], **asked).equal(medcli.sample(loaded, classes=[0, 3], **asked))

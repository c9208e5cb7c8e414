"""`medcli convert` as a user sees it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import medcli
from medcli.checkpoint import stream
from medcli.checkpoint.reader import describe
from medcli.checkpoint.tensor_record import TensorRecord
from medcli.checkpoint.value_check import ValueCheck
from medcli.config import ModelConfig
from medcli.runtime.text import macs_text
from tests.conftest import RunCli
from tests.unit.checkpoint.builders import GOLDEN, random_state, save_flat, save_training

# A preset width, so that no hint is needed; shallow and of few classes, so that it is small.
CONFIG = ModelConfig(family="sit", hidden_size=384, depth=5, num_heads=6, latent_size=32, num_classes=3, mlp_ratio=0.5)
KEYS = {
    "output",
    "family",
    "preset",
    "num_params",
    "layers",
    "mediators",
    "copied",
    "resized",
    "new",
    "dropped",
    "weights",
    "sha256",
    "gmacs_dense",
    "costs",
}


@pytest.fixture
def source(empty_folder: Path) -> Path:
    save_flat(empty_folder / "sit_xl.pt", CONFIG)
    return empty_folder / "sit_xl.pt"


def test_the_first_line_of_the_contract(source: Path, run_cli: RunCli) -> None:
    result = run_cli("convert", "sit_xl.pt")
    assert result.code == 0
    assert result.out.splitlines()[0] == "wrote sit_xl-mediators.safetensors (62 tensors copied, 100 new)"
    assert result.err == "hint: medcli finetune sit_xl-mediators.safetensors --data FOLDER --calibrate\n"
    assert sorted(path.name for path in source.parent.iterdir()) == ["sit_xl-mediators.safetensors", "sit_xl.pt"]
    config = describe(source.parent / "sit_xl-mediators.safetensors").config
    assert (config.mediators, config.mediator_layers) == ((4, 16, 64), (0, 1, 2, 3, 4))


def test_json_has_the_keys_of_the_contract_and_a_true_hash(source: Path, run_cli: RunCli) -> None:
    result = run_cli("convert", source, "--json", "-o", "out.safetensors")
    report = json.loads(result.out)
    assert set(report) == KEYS
    assert report["output"] == "out.safetensors"
    assert (report["family"], report["preset"], report["weights"]) == ("sit", None, "model")
    assert (report["mediators"], report["layers"]) == ([4, 16, 64], [0, 1, 2, 3, 4])
    assert (len(report["copied"]), len(report["new"]), report["dropped"]) == (62, 100, [])
    assert report["num_params"] == sum(t.numel() for t in load_file("out.safetensors").values())
    assert report["sha256"] == hashlib.sha256(Path("out.safetensors").read_bytes()).hexdigest()


def test_the_same_input_gives_the_same_hash(source: Path, run_cli: RunCli) -> None:
    (source.parent / "elsewhere").mkdir()
    source.rename(source.parent / "elsewhere/sit_xl.pt")
    first = json.loads(run_cli("convert", "elsewhere/sit_xl.pt", "--json").out)
    (source.parent / "elsewhere/sit_xl.pt").rename(source)
    again = json.loads(run_cli("convert", source, "--json", "-o", "a/b/c.safetensors").out)
    assert first["output"] == "sit_xl-mediators.safetensors"
    assert first["sha256"] == again["sha256"]


def test_people_and_programs_get_the_same_file(source: Path, run_cli: RunCli) -> None:
    run_cli("convert", source, "-o", "a.safetensors")
    run_cli("convert", source, "-o", "b.safetensors", "--json")
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


def test_layers_none_repacks_every_tensor_bit_for_bit(source: Path, run_cli: RunCli) -> None:
    assert run_cli("convert", source, "--layers", "none").code == 0
    before, after = torch.load(source, weights_only=True), load_file("sit_xl-medcli.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("layers", "expected"), [("all", [0, 1, 2, 3, 4]), ("0,2", [0, 2]), ("1-3", [1, 2, 3]), ("auto", [0, 1, 2, 3, 4])]
)
def test_layers_are_chosen_by_text(source: Path, run_cli: RunCli, layers: str, expected: list[int]) -> None:
    result = run_cli("convert", source, "--layers", layers, "--mediators", "1,9", "--json")
    assert json.loads(result.out)["layers"] == expected
    assert json.loads(result.out)["mediators"] == [1, 9]


def test_weights_are_chosen_by_name(empty_folder: Path, run_cli: RunCli) -> None:
    save_training(empty_folder / "0400000.pt", CONFIG)
    outputs = []
    for weights in ("ema", "model"):
        result = run_cli("convert", "0400000.pt", "--weights", weights, "-o", f"{weights}.safetensors", "--json")
        assert json.loads(result.out)["weights"] == weights
        outputs.append(load_file(f"{weights}.safetensors")["x_embedder.proj.bias"])
    assert not torch.equal(*outputs)


def test_a_converted_file_converts_again(source: Path, run_cli: RunCli) -> None:
    run_cli("convert", source)
    result = run_cli("convert", "sit_xl-mediators.safetensors", "--mediators", "16", "-o", "one.safetensors", "--json")
    report = json.loads(result.out)
    assert (report["mediators"], report["layers"], report["new"]) == ([16], [0, 1, 2, 3, 4], [])
    assert len(report["dropped"]) == 5 * 2 * 6
    result = run_cli("convert", "one.safetensors", "--mediators", "none", "-o", "dense.safetensors")
    assert result.code == 0
    run_cli("convert", source, "--layers", "none", "-o", "plain.safetensors")
    one, other = load_file("dense.safetensors"), load_file("plain.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert describe("dense.safetensors").config == describe("plain.safetensors").config


def test_a_file_of_another_project_is_never_replaced_by_its_conversion(source: Path, run_cli: RunCli) -> None:
    before = source.read_bytes()
    result = run_cli("convert", "sit_xl.pt", "-o", "sit_xl.pt", "--force")
    assert (result.code, "sit_xl.pt is an input of this command" in result.err) == (2, True)
    assert source.read_bytes() == before


def test_numbers_that_fp16_can_not_hold_are_named(empty_folder: Path, run_cli: RunCli) -> None:
    for number, code in ((65519.0, 0), (65520.0, 2), (-1e9, 2)):
        state = random_state()
        state["blocks.0.mlp.fc1.weight"][0, 0] = number
        torch.save(state, "sit.pt")
        words = (
            "sit.pt",
            "--heads",
            2,
            "--family",
            "sit",
            "--dtype",
            "fp16",
            "--layers",
            "none",
            "-o",
            "o.safetensors",
        )
        result = run_cli("convert", *words, "--force", "-q")
        assert result.code == code, result.err
        assert ("blocks.0.mlp.fc1.weight has numbers up to" in result.err) == bool(code)


def test_a_file_can_replace_itself_by_force(source: Path, run_cli: RunCli) -> None:
    run_cli("convert", source, "-o", "x.safetensors")
    before = load_file("x.safetensors")
    assert run_cli("convert", "x.safetensors", "-o", "x.safetensors", "--layers", "0", "--force").code == 0
    assert describe("x.safetensors").config.mediator_layers == (0,)
    assert torch.equal(load_file("x.safetensors")["pos_embed"], before["pos_embed"])


def test_resolution_and_classes_change_together(source: Path, run_cli: RunCli) -> None:
    result = run_cli("convert", source, "--res", "512", "--num-classes", "2", "--json", "-o", "x.safetensors")
    report = json.loads(result.out)
    assert sorted(report["resized"]) == ["pos_embed", "y_embedder.embedding_table.weight"]
    config = medcli.load("x.safetensors").config
    assert (config.resolution_px, config.num_classes, config.has_null_class) == (512, 2, True)


def test_the_official_layout_goes_out_and_comes_back(source: Path, run_cli: RunCli) -> None:
    result = run_cli("convert", source, "--to", "official", "--json")
    report = json.loads(result.out)
    assert (report["output"], report["mediators"]) == ("sit_xl-official.pt", [])
    assert report["sha256"] == hashlib.sha256(Path("sit_xl-official.pt").read_bytes()).hexdigest()
    assert "sample" not in result.err
    before, after = (torch.load(path, weights_only=True) for path in (source, "sit_xl-official.pt"))
    assert list(before) == list(after)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_diffusers_layout_goes_out_and_comes_back(empty_folder: Path, run_cli: RunCli) -> None:
    original = GOLDEN / "checkpoints/dit_raw.pt"
    assert run_cli("convert", original, "--heads", "2", "--to", "diffusers").code == 0
    assert sorted(path.name for path in Path("dit_raw-diffusers/transformer").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert run_cli("convert", "dit_raw-diffusers", "--layers", "none", "-o", "back.safetensors").code == 0
    before, after = torch.load(original, weights_only=True), load_file("back.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_cost_of_a_pass_is_shown_before_and_after(source: Path, run_cli: RunCli) -> None:
    report = json.loads(run_cli("convert", source, "--layers", "0-1", "--json", "-o", "some.safetensors").out)
    model = medcli.load("some.safetensors")
    dense = medcli.count_macs(model, num_mediators=0)
    assert report["gmacs_dense"] == dense / 1e9
    assert [cost["num_mediators"] for cost in report["costs"]] == [4, 16, 64]
    for cost in report["costs"]:
        macs = medcli.count_macs(model, num_mediators=cost["num_mediators"])
        assert cost["gmacs"] == macs / 1e9
        assert cost["saving_percent"] == pytest.approx(100 * (1 - macs / dense))
        # Five blocks in place of two.
        assert cost["all_layers_saving_percent"] == pytest.approx(2.5 * cost["saving_percent"])
    table = run_cli("convert", source, "--layers", "0-1").out
    assert "saved % (--layers all)" in table
    assert macs_text(dense / 1e9) in table
    everywhere = run_cli("convert", source, "-o", "all.safetensors").out
    assert "--layers all" not in everywhere
    assert len(re.findall("saved %", everywhere)) == 2


def test_without_new_mediators_sampling_is_the_next_step(source: Path, run_cli: RunCli) -> None:
    run_cli("convert", source)
    again = run_cli("convert", "sit_xl-mediators.safetensors", "--mediators", "4,16", "-o", "fewer.safetensors")
    assert again.err == "hint: medcli sample fewer.safetensors\n"


def test_counts_that_save_nothing_are_remarked(empty_folder: Path, run_cli: RunCli) -> None:
    result = run_cli("convert", GOLDEN / "checkpoints/mediator_epoch_004.pt", "--mediators", "4,9,16")
    assert "9, 16 mediators cost as much as full attention at 16 tokens" in result.err


def test_quiet_leaves_the_result_alone(source: Path, run_cli: RunCli) -> None:
    result = run_cli("convert", source, "-q")
    assert (result.out, result.err) == ("sit_xl-mediators.safetensors\n", "")


def test_an_interrupted_run_leaves_nothing(source: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(ValueCheck):
        def __init__(self, record: TensorRecord, source: str) -> None:
            if record.name.startswith("blocks.2"):
                raise KeyboardInterrupt
            super().__init__(record, source)

    monkeypatch.setattr(stream, "ValueCheck", Interrupting)
    result = run_cli("convert", source)
    assert result.code == 130
    assert [path.name for path in source.parent.iterdir()] == ["sit_xl.pt"]


@pytest.mark.parametrize(
    ("dtype", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_weights_are_stored_in_another_number_format(
    source: Path, run_cli: RunCli, dtype: str, kind: torch.dtype
) -> None:
    run_cli("convert", source, "-o", "plain.safetensors")
    result = run_cli("convert", source, "--dtype", dtype, "-o", "x.safetensors")
    assert result.code == 0, result.err
    plain, stored = load_file("plain.safetensors"), load_file("x.safetensors")
    for name, value in stored.items():
        assert value.dtype == (plain[name].dtype if name == "pos_embed" else kind)
        assert torch.equal(value, plain[name].to(value.dtype))
    assert medcli.load("x.safetensors", dtype=torch.float32).pos_embed.dtype == torch.float32

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcli.cli.analyze import advice_line
from medcli.workflows.analyze import run as workflow
from medcli.workflows.analyze.suggestion import Suggestion
from tests.conftest import RunCli
from tests.unit.engine.tiny import PIXELS, save, with_ladder

FEW = ("--num-images", 3, "--steps", 8, "--points", 3, "--rho", "0.99,0.9")


@pytest.fixture
def dense(empty_folder: Path) -> Path:
    return save(empty_folder / "dense.safetensors", with_ladder(PIXELS))


def test_an_analysis_writes_its_map_its_curves_and_its_numbers(run_cli: RunCli, dense: Path) -> None:
    result = run_cli("analyze", dense, *FEW, "--json")
    assert result.code == 0, result.err
    shown = json.loads(result.out)
    folder = Path("analysis/dense-0")
    assert shown.pop("output") == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["analysis.json", "change.png", "redundancy.png"]
    assert json.loads((folder / "analysis.json").read_text()) == shown
    assert shown["kind"] == "medcli-analysis"
    assert (shown["layers"], shown["steps"], shown["num_images"]) == ([0, 1], [0, 4, 7], 3)
    assert shown["progress"] == [0, 0.5, 7 / 8]
    redundancy = np.array(shown["redundancy"])
    assert redundancy.shape == np.array(shown["redundancy_error"]).shape == (2, 3)
    assert (redundancy > 0).all()
    assert (redundancy < math.log(2)).all()
    heads = np.array(shown["redundancy_heads"])
    assert heads.shape == (2, 2, 3), "layer, head, step"
    np.testing.assert_allclose(heads.mean(1), redundancy, rtol=1e-4)
    assert shown["all_pairs"] is True
    assert shown["pair_error"] == 0
    assert set(shown["observations"]) == {"redundant_early", "falls_with_progress"}
    assert shown["settings"]["checkpoints"][0]["file"] == "dense.safetensors"
    assert len(shown["settings"]["checkpoints"][0]["sha256"]) == 64
    change = shown["latent_change"]["distances"]
    assert set(change) == {"l1", "l2"}
    for curves in change.values():
        assert np.array(curves["distance"], dtype=float).shape == (5, 8)
        assert [row["rho"] for row in curves["thresholds"]] == [0.99, 0.9]
        assert all(len(row["switch_steps"]) == 3 for row in curves["thresholds"])
    for name in ("redundancy.png", "change.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 800
            assert len(picture.convert("L").getcolors() or range(999)) > 20, "not an empty page"


def test_a_person_sees_the_map_the_findings_and_the_thresholds(run_cli: RunCli, dense: Path) -> None:
    result = run_cli("analyze", dense, *FEW)
    assert result.code == 0, result.err
    for part in (
        "layer 0",
        "layer 1",
        "redundant early: ",
        "redundancy falls with progress: ",
        "suggestion: layers 0-1 with mediators",
    ):
        assert part in result.out
    assert "suggestion: layers 0-1 with mediators 4, saving " in result.out
    assert "0.99" in result.out
    assert "\x1b" not in result.out
    # The suggestion can be run as it stands.
    line = next(line for line in result.err.splitlines() if line.startswith("hint: medcli convert"))
    assert run_cli(*line.split()[2:]).code == 0


def test_where_nothing_is_suggested_the_reason_stands() -> None:
    none = Suggestion(layers=(), mediators=(), saving_percent=(), reason="too different")
    assert advice_line(none) == "suggestion: no mediators: too different"
    ladder = Suggestion(layers=(0, 1, 5), mediators=(4, 16, 36), saving_percent=(9.0, 8.04, 6.0), reason="alike")
    assert advice_line(ladder) == (
        "suggestion: layers 0-1,5 with mediators 4,16,36, saving 6.0 to 9.0 % of the multiply-adds: alike"
    )


def test_the_same_command_gives_the_same_files(run_cli: RunCli, dense: Path) -> None:
    contents = []
    for _ in range(2):
        assert run_cli("analyze", dense, *FEW, "--pairs", 20, "--seed", 4, "--force").code == 0
        contents.append({path.name: path.read_bytes() for path in Path("analysis/dense-4").iterdir()})
    assert contents[0] == contents[1]
    seen = json.loads(contents[0]["analysis.json"])
    assert seen["all_pairs"] is False
    assert seen["pair_error"] > 0


def test_the_change_of_latents_can_be_had_alone(run_cli: RunCli, dense: Path) -> None:
    result = run_cli("analyze", dense, *FEW, "--no-attention", "--warmup-steps", 2, "-o", "only")
    assert result.code == 0, result.err
    assert sorted(path.name for path in Path("only").iterdir()) == ["analysis.json", "change.png"]
    seen = json.loads(Path("only/analysis.json").read_text())
    assert "redundancy" not in seen
    assert seen["latent_change"]["warmup_steps"] == 2
    assert "suggestion" not in result.out


def test_a_converted_model_is_looked_at_as_its_dense_parent(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "ladder.safetensors", PIXELS)
    result = run_cli("analyze", "ladder.safetensors", *FEW, "--json")
    assert result.code == 0, result.err
    seen = json.loads(result.out)
    assert seen["settings"]["schedule"] == {"kind": "full", "counts": [0]}
    assert seen["convert"] is None, "it has its mediators"
    assert np.array(seen["redundancy"]).shape == (2, 3)


def test_distances_are_put_in_relation_to_the_warm_up(run_cli: RunCli, dense: Path) -> None:
    assert run_cli("analyze", dense, *FEW, "--no-attention", "-o", "only").code == 0
    row = json.loads(Path("only/analysis.json").read_text())["latent_change"]["distances"]["l1"]
    median = row["relative"][2]
    assert median[0] is None, "the jump from the noise is not looked at"
    assert np.mean(median[1:4]) == pytest.approx(1, abs=0.2), "the warm-up sets the scale"
    # Not during the warm-up, and not by the last step, after which there is none to change.
    assert all(step == -1 or 4 <= step <= 6 for step in row["thresholds"][0]["switch_steps"])


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--num-images", 1), 2, "--num-images"),
        (("--sampler", "ode", "--solver", "dopri5"), 2, "chooses its own steps"),
        (("--rho", "0.5,0"), 2, "--rho 0"),
        (("--rho", "much"), 2, "--rho 'much'"),
        (("--steps", 4), 2, "4 solver steps"),
        (("--sampler", "ddpm"), 2, "--sampler ddpm"),
        (("--classes", 10), 2, "class 10"),
        (("--device", "tpu"), 2, "unknown device"),
    ],
)
def test_bad_requests_say_what_is_wrong_and_leave_nothing(
    run_cli: RunCli, dense: Path, flags: tuple[Any, ...], code: int, says: str
) -> None:
    result = run_cli("analyze", dense, *FEW, *flags)
    assert result.code == code
    assert says in result.err
    assert len(result.err.splitlines()) <= 2
    assert [path.name for path in Path().iterdir()] == ["dense.safetensors"]


def test_an_analysis_is_not_overwritten_unasked(run_cli: RunCli, dense: Path) -> None:
    Path("there").mkdir()
    Path("there/mine.txt").write_text("mine")
    result = run_cli("analyze", dense, *FEW, "-o", "there")
    assert result.code == 2
    assert "--force" in result.err
    assert Path("there/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_a_run_that_is_stopped_leaves_nothing_half_written(
    run_cli: RunCli, dense: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def stopped(*_: Any) -> None:
        raise stop

    monkeypatch.setattr(workflow, "draw_change", stopped)
    assert run_cli("analyze", dense, *FEW).code != 0
    assert [path.name for path in Path().iterdir()] == ["dense.safetensors"]


def test_a_damaged_or_missing_checkpoint_is_a_checkpoint_error(run_cli: RunCli, empty_folder: Path) -> None:
    Path("bad.safetensors").write_bytes(b"nonsense")
    assert run_cli("analyze", "bad.safetensors").code == 3
    assert run_cli("analyze", "gone.pt").code == 3


def test_dit_models_are_sampled_their_way(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "dit.safetensors", replace(with_ladder(PIXELS), family="dit", learn_sigma=True))
    result = run_cli("analyze", "dit.safetensors", *FEW, "--sampler", "ddim", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["settings"]["sampler"]["sampler"] == "ddim"

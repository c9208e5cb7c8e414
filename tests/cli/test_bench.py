"""`medcli bench`, as a user sees it; no test looks at how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import RunCli
from tests.unit.engine.tiny import LADDER, save

SHORT = ("--repeats", "2", "--batch-size", "2", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("bench") / "tiny.safetensors")


def test_json_has_units_in_its_keys_and_says_where_it_was_measured(run_cli: RunCli, file: Path) -> None:
    result = run_cli("bench", file, *SHORT, "--json", "-q")
    assert (result.code, result.err) == (0, "")
    report = json.loads(result.out)
    assert report["versions"].keys() == {"medcli", "python", "torch"}
    known = {name: report[name] for name in ("model", "clock", "device", "dtype", "compiled", "threads", "batch_size")}
    assert known == {
        "model": "tiny.safetensors",
        "clock": "thread_cpu",
        "device": "cpu",
        "dtype": "fp32",
        "compiled": False,
        "threads": 1,
        "batch_size": 2,
    }
    counts = [row["mediators"] for row in report["rows"]]
    assert counts == [[], [1], [1], [4], [4], [16], [], [], list(LADDER)]
    assert report["kind"] == "medcli-bench"
    for row in report["rows"]:
        assert row["gmacs_done"] <= row["gmacs"]
        assert row.keys() >= {"variant", "ratio_to_dense", "slower", "peak_memory_mib", "dtype"}
        assert 0 < row["seconds_q1"] <= row["seconds_median"] <= row["seconds_q3"]
        assert row["images_per_sec"] == pytest.approx(row["num_images"] / row["seconds_median"] / row["scale"])
        assert row["slower"] == (row["ratio_to_dense"] < 1)


def test_a_person_sees_both_tables_and_how_to_read_them(run_cli: RunCli, file: Path) -> None:
    result = run_cli("bench", file, *SHORT)
    assert result.code == 0
    assert result.out.startswith("tiny.safetensors, 8 px, 16 tokens, fp32, batches of 2; ")
    assert sum(", not absorbed" in line for line in result.out.splitlines()) == 2
    for shown in (
        "speed-up",
        "executed: without the queries",
        "CPU time of the one thread",
        "full, 250 steps: sde euler",
        "1,4,16,full, 12 calls: ode adams3, calls at each count: 3 3 3 3",
    ):
        assert shown in result.out


def test_without_steps_only_network_calls_are_timed(run_cli: RunCli, file: Path) -> None:
    result = run_cli("bench", file, *SHORT, "--steps", "0", "--mediators", "4", "--layers", "1", "--res", "16")
    assert result.code == 0
    assert "16 px, 64 tokens" in result.out
    assert "mediators in 1 of 2 blocks" in result.out
    assert "250 steps" not in result.out


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_number_format_the_cpu_has_not_is_measured_with_a_warning(
    run_cli: RunCli, file: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr("medcli.runtime.precision.multiplies_bfloat16", lambda device: False)
    result = run_cli("bench", file, *SHORT, "--steps", "0", "--dtype", dtype)
    warned = [line for line in result.err.splitlines() if "bfloat16" in line]
    assert result.code == 0
    assert len(warned) == (dtype == "bf16")
    assert all(line.endswith("use --dtype fp32") for line in warned)


def test_compiling_needs_a_compiler_and_that_is_said_first(
    run_cli: RunCli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = run_cli("bench", file, *SHORT, "--compile")
    assert (result.code, result.out) == (5, "")
    assert result.err.startswith("error: --compile needs a C++ compiler, and there is no no-such-compiler here\nhint: ")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["SiT-S/9"], 2, "error: unknown preset 'SiT-S/9'\nhint: did you mean SiT-S/8?\n"),
        (["nowhere.pt"], 3, "error: nowhere.pt does not exist\nhint: "),
        (["--mediators", "5"], 2, "error: mediator count 5 is not a perfect square"),
        (["--res", "100"], 2, "error: resolution 100 px is not a positive multiple of 16"),
        (["--layers", "0-12"], 2, "error: --layers '0-12': there is no block 12"),
        (["--layers", "none", "--mediators", "4"], 2, "error: --layers none leaves no block for --mediators"),
        (["--steps", "1"], 2, "error: --steps must be at least 2, got 1"),
        (["--steps", "2"], 2, "error: --at leaves none of the 2 solver steps to"),
        (["--rho", "0.5"], 2, "error: --rho 0.5: 1 given, expected 2"),
        (["--schedule", "dynamic", "--sampler", "ode"], 2, "error: --schedule dynamic can't read distances"),
        (["--at", "0.5"], 2, "error: --at"),
        (["--grid", "logsnr"], 2, "error: --grid"),
        (["--plan", "nowhere.json"], 2, "error: nowhere.json does not exist"),
        (["--plan", "a,,b"], 2, "error: --plan"),
        (["--repeats", "0"], 2, "error: "),
        (["--threads", "0"], 2, "error: "),
        (["--dtype", "fp8"], 2, "error: --dtype 'fp8': expected one of auto, fp32, tf32, bf16, fp16"),
        (["--device", "abacus"], 2, "error: unknown device 'abacus'"),
    ],
)
def test_mistakes_are_told_in_two_lines_before_any_weights_are_made(
    run_cli: RunCli, empty_folder: Path, words: list[str], code: int, said: str
) -> None:
    result = run_cli("bench", *words)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(said)
    assert len(result.err.splitlines()) <= 2

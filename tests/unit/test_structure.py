"""The test of a source file is found by its name."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "medcli"

TESTED_BY = {
    "checkpoint/check": "unit/checkpoint/test_load",
    "checkpoint/diffusers_folder": "golden/test_checkpoints",
    "checkpoint/export": "golden/test_checkpoints",
    "checkpoint/families": "golden/test_families",
    "checkpoint/fingerprint": "unit/checkpoint/test_writer",
    "checkpoint/header": "unit/checkpoint/test_writer",
    "checkpoint/infer": "unit/checkpoint/test_reader",
    "checkpoint/keymap": "property/test_keymap",
    "checkpoint/layouts": "unit/checkpoint/test_reader",
    "checkpoint/pickle_values": "unit/checkpoint/test_unpickle",
    "checkpoint/stream": "unit/checkpoint/test_writer",
    "cli/progress": "cli/test_output",
    "diffusion/solver_tables": "golden/test_transport",
    "engine/adaptive": "unit/engine/test_generate",
    "engine/manifest": "cli/test_sample",
    "data/autoencoder_file": "unit/data/test_autoencoder",
    "data/latent_origin": "cli/test_peers",
    "data/latent_statistics": "golden/test_peers",
    "data/loaded_autoencoder": "golden/test_peers",
    "model/amm": "golden/test_families",
    "model/block": "golden/test_models",
    "model/edt": "golden/test_families",
    "model/embed": "golden/test_models",
    "model/grid_tables": "unit/model/test_parts",
    "model/layout": "unit/cost/test_macs",
    "model/linear": "unit/model/test_inference",
    "model/mdt": "golden/test_families",
    "model/mediator": "golden/test_models",
    "pages/page": "cli/test_report",
    "runtime/presence": "unit/runtime/test_shared_work",
    "runtime/reporting": "cli/test_output",
    "runtime/shared_lines": "unit/runtime/test_shared_work",
    "runtime/worker_processes": "unit/scores/test_feature_workers",
    "scores/torchscript": "unit/scores/test_registry",
    "scores/extractor": "unit/scores/test_features",
    "scores/inception_weights": "unit/scores/test_inception",
    "settings/analysis": "cli/test_analyze",
    "settings/build": "unit/settings/test_records",
    "settings/checkpoints": "cli/test_convert",
    "settings/config_file": "unit/settings/test_records",
    "settings/costs": "cli/test_flops",
    "settings/declare": "unit/settings/test_values",
    "settings/finetune": "cli/test_finetune",
    "settings/fresh": "cli/test_finetune_scratch",
    "settings/latents": "cli/test_latents",
    "settings/machine": "cli/test_sample_flags",
    "settings/merging": "cli/test_merge",
    "settings/modulation": "cli/test_sample_flags",
    "settings/pages": "cli/test_report",
    "settings/sampling": "cli/test_sample_flags",
    "settings/scoring": "cli/test_fid",
    "settings/training": "cli/test_finetune",
    "training/block_autocast": "unit/training/test_train",
    "training/calibration_inputs": "unit/training/test_calibration",
    "training/layer_fit": "unit/training/test_calibration",
    "training/loop": "unit/training/test_train",
    "training/network_fit": "unit/training/test_calibration",
    "version": "cli/test_app",
    "workflows/image_cost": "cli/test_flops",
}
"""Source files whose tests are named after what uses them, and those tests."""


def expected_tests(module: str) -> list[str]:
    """Names a module's test may have, without the ending."""
    package, *rest = module.split("/")
    if not rest:
        return [f"unit/test_{module}"]
    if package == "cli":
        return [f"cli/test_{rest[0]}"]
    if package == "workflows":  # a file or a folder a command: latents.py, latents_encoding.py, finetune/run.py
        return [
            f"{folder}/test_{name}" for folder in ("cli", "unit/workflows") for name in (rest[0], rest[0].split("_")[0])
        ]
    return [f"unit/{package}/test_{rest[-1]}"]


def exists(test: str) -> bool:
    return (TESTS / f"{test}.py").is_file()


MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix()
    for path in PACKAGE.rglob("*.py")
    if not path.stem.startswith("__")
)


def test_every_source_file_has_a_test_of_its_name_or_one_listed_here() -> None:
    missing = [name for name in MODULES if name not in TESTED_BY and not any(map(exists, expected_tests(name)))]
    assert not missing, "write tests/" + expected_tests(missing[0])[0] + ".py"


def test_the_list_holds_nothing_that_is_gone_or_needless() -> None:
    assert [name for name in TESTED_BY if name not in MODULES] == []
    assert [test for test in TESTED_BY.values() if not exists(test)] == []
    assert [name for name in TESTED_BY if any(map(exists, expected_tests(name)))] == []


def test_every_command_has_a_test_of_its_name() -> None:
    from medcli.cli.app import COMMANDS

    assert [name for name in COMMANDS if not exists(f"cli/test_{name}")] == []


def test_every_unit_test_is_named_after_a_source_file_or_a_subject_listed_here() -> None:
    subjects = {
        *("unit/test_structure", "unit/test_public"),
        *("unit/model/test_bfloat16", "unit/model/test_inference"),
        *("unit/engine/test_effects", "unit/engine/test_shared_folder", "unit/scores/test_error_bars"),
        *("unit/training/test_masked_training", "unit/training/test_calibration"),
    }
    known = {test for name in MODULES for test in expected_tests(name)}
    found = {path.relative_to(TESTS).with_suffix("").as_posix() for path in (TESTS / "unit").rglob("test_*.py")}
    stray = {name for name in found - known - subjects if not name.startswith("unit/workflows/")}
    assert not stray

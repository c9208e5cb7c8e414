from pathlib import Path

import pytest

from medcli.data.assets import BUNDLED_MODEL, BUNDLES, FOLDER, PARTS, asset_path, bundled_model
from medcli.errors import EnvironmentProblem
from tests.conftest import RunCli


def test_a_bundled_file_is_found_and_a_missing_one_named() -> None:
    assert asset_path(BUNDLED_MODEL).stat().st_size > 100_000
    with pytest.raises(EnvironmentProblem, match=r"no-such\.npz is missing") as caught:
        asset_path("no-such.npz")
    assert caught.value.hint == "reinstall medcli"


@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_bundle_is_whole_and_has_a_data_card(bundle: str) -> None:
    assert {path.name for path in (FOLDER / bundle).iterdir()} == {*(bundle + part for part in PARTS), "README.md"}
    assert (
        bundled_model(bundle) == bundled_model(f"{bundle}-sit.safetensors") == asset_path(f"{bundle}-sit.safetensors")
    )


def test_other_names_are_no_bundle() -> None:
    assert bundled_model("no-such") is None
    assert bundled_model("folder/digits") is None


def test_all_bundles_together_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 12e6


@pytest.mark.parametrize("command", [("inspect",), ("flops",), ("convert", "-o", "x.safetensors", "--layers", "none")])
def test_commands_take_a_bundle_by_its_name(run_cli: RunCli, empty_folder: Path, command: tuple[str, ...]) -> None:
    name, *words = command
    result = run_cli(name, "digits", *words, "--json")
    assert result.code == 0, result.err
    assert "sit" in result.out

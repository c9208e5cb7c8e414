import pytest

from medcli.data.assets import BUNDLED_MODEL, asset_path
from medcli.errors import EnvironmentProblem


def test_a_bundled_file_is_found_and_a_missing_one_named() -> None:
    assert asset_path(BUNDLED_MODEL).stat().st_size > 100_000
    with pytest.raises(EnvironmentProblem, match=r"no-such\.npz is missing") as caught:
        asset_path("no-such.npz")
    assert caught.value.hint == "reinstall medcli"

import pytest
import torch

from medcli.errors import EnvironmentProblem
from medcli.runtime.device import pick_device


def test_the_best_device_is_taken_when_none_is_named() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device().type == pick_device("auto").type == expected
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "toaster", "cpu:1", "xpu", "meta", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        pick_device(name)
    assert caught.value.hint

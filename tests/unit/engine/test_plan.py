import pytest
import torch

from medcli.engine.plan import Labels
from medcli.errors import ConfigError


def test_equal_classes_take_turns() -> None:
    labels = Labels(classes=(3, 5, 8))
    assert labels.of(0, torch.arange(7)).tolist() == [3, 5, 8, 3, 5, 8, 3]


def test_random_classes_depend_on_seed_and_number_alone() -> None:
    labels = Labels(classes=tuple(range(10)), sampling="random")
    drawn = labels.of(1, torch.arange(2000))
    assert torch.equal(labels.of(1, torch.tensor([17, 3])), drawn[[17, 3]])
    assert not torch.equal(labels.of(2, torch.arange(2000)), drawn)
    assert torch.bincount(drawn, minlength=10).min() > 140


def test_no_classes_are_refused() -> None:
    with pytest.raises(ConfigError):
        Labels(classes=())

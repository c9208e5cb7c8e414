from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from digits_assets import ClassifierTraining, held_out_split, main, train_classifier
from medcli.data.assets import asset_path
from medcli.errors import ConfigError


def test_the_split_is_fixed_and_leaves_no_digit_out() -> None:
    train, held_out = held_out_split()
    assert len(held_out) == 360
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(1797))
    assert torch.equal(held_out, held_out_split()[1])


def test_training_learns_repeats_and_leaves_the_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    training = ClassifierTraining(num_epochs=2)
    (first, accuracy), (second, _) = train_classifier(training), train_classifier(training)
    assert accuracy > 0.8
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_reference_command_reproduces_the_shipped_file(tmp_path: Path) -> None:
    """Up to float32 rounding, which differs between processors."""
    main(["reference", str(tmp_path / "reference.safetensors")])
    made, shipped = (
        load_file(tmp_path / "reference.safetensors"),
        load(asset_path("digits-reference.safetensors").read_bytes()),
    )
    assert set(made) == set(shipped)
    for name, tensor in shipped.items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("argv", [[], ["model"]])
def test_an_unknown_asset_is_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="classifier, reference"):
        main(argv)

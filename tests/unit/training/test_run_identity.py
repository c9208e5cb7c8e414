from __future__ import annotations

import pytest

from medcli.training.run_identity import changed_settings, changes_text, fixed_changes

HASHES = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        ({"lr": 1e-4}, {"lr": 5e-5}, "lr 0.0001, not 5e-05"),
        ({"seed": 1}, {"seed": True}, ""),  # JSON's 1 and true are equal to Python
        ({"seed": 1}, {"seed": 2}, "seed 1, not 2"),
        ({"calibration": True}, {"calibration": False}, "calibration on, not off"),
        ({"entries": [0, 4]}, {"entries": [0]}, "mediator counts 0,4, not 0"),
        ({"skip_steps": []}, {"skip_steps": [3]}, "skip steps none, not 3"),
        ({"lr_decay": None}, {"lr_decay": [1e-5, 10]}, "lr decay none, not 1e-05,10"),
        ({"teacher": HASHES[0]}, {"teacher": HASHES[1]}, "other teacher"),
        (
            {"set of starting weights": {"sha256": HASHES[0]}},
            {"set of starting weights": {"sha256": HASHES[1]}},
            "other starting weights",
        ),
        ({"masking": None}, {"masking": {"where": "down"}}, "masking none, not none; masking where none, not down"),
        ({"model": {"depth": 3, "width": 8}}, {"model": {"depth": 4, "width": 8}}, "model depth 3, not 4"),
        ({}, {"optimizer": "adan"}, "optimizer adamw, not adan"),
        ({}, {"flips": False}, "flips on, not off"),
        (dict.fromkeys("abcde", 1), dict.fromkeys("abcde", 2), "a 1, not 2; b 1, not 2; c 1, not 2; and 2 more"),
    ],
)
def test_changes_are_named_with_both_values(before: dict[str, object], now: dict[str, object], text: str) -> None:
    changes = changed_settings(before, now)
    assert changes_text({key: pair for key, pair in changes.items() if pair != (None, None)}) == text.replace(
        "masking none, not none; ", ""
    )


def test_data_are_compared_by_fingerprint() -> None:
    old = {"data": {"name": "photos", "fingerprint": HASHES[0]}}
    assert not changed_settings(old, {"data": {"name": "/elsewhere/photos", "fingerprint": HASHES[0]}})
    changes = changed_settings(old, {"data": {"name": "photos", "fingerprint": HASHES[1]}})
    assert changes_text(changes) == "other data"
    assert not fixed_changes(changes)


def test_network_parameters_and_optimizer_are_fixed() -> None:
    changes = changed_settings({"model": {"depth": 3}, "lr": 1}, {"model": {"depth": 4}, "lr": 2, "optimizer": "adan"})
    assert set(fixed_changes(changes)) == {"model.depth", "optimizer"}

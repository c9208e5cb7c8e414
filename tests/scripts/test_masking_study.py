"""The study of the two losses, shortened."""

import json
from dataclasses import replace

import pytest

import masking_study
from masking_study import LOSSES, PICTURE, TRAINING, WAYS, study
from medcli.runtime.reporting import Silent


def test_losses_and_the_angle_of_their_gradients_are_found_for_every_seed_and_kept(tmp_path, monkeypatch):
    short = replace(TRAINING, steps=2, save_every=1, global_batch_size=4)
    monkeypatch.setattr(masking_study, "MEASURED_IMAGES", 8)
    found = study(tmp_path, Silent(), short, ways=WAYS[:1], seeds=(0, 1))
    assert json.loads((tmp_path / LOSSES).read_text()) == found
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    (first, second) = found[WAYS[0].title]
    assert [point["step"] for point in first] == [1, 2]
    assert first != second
    for point in first:
        # Fresh networks answer 0 and are asked for unit noise, weighted by Min-SNR.
        assert 0 < point["full_loss"] < 1.2
        assert point["masked_loss"] == pytest.approx(point["full_loss"], rel=0.5)
        assert -1 <= point["cosine"] <= 1
    monkeypatch.setattr(masking_study, "train", None)
    assert study(tmp_path, Silent(), short, ways=WAYS[:1], seeds=(0, 1)) == found

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from digits_assets import held_out_split
from medcli.data.assets import CLASSIFIER, asset_path
from medcli.data.bundled_set import bundled_images, bundled_pixels
from medcli.errors import DataError, EnvironmentProblem
from medcli.scores.classifier import ClassifierExtractor, class_labels, classifier_inputs, load_classifier
from medcli.scores.extractor import LOGITS, POOL
from medcli.scores.registry import load_extractor


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(bundled_pixels("digits")), torch.from_numpy(bundled_images("digits")[1]).long()


def test_the_bundled_classifier_reads_digits_it_has_not_seen() -> None:
    images, labels = digits()
    _, held_out = held_out_split()
    accuracy = (class_labels(images[held_out], load_extractor("digits")) == labels[held_out]).double().mean()
    assert accuracy >= 0.985


def test_features_have_the_widths_the_extractor_states() -> None:
    extractor = load_extractor("digits")
    features = extractor.features(digits()[0][:5])
    assert {kind: tuple(rows.shape) for kind, rows in features.items()} == {POOL: (5, 64), LOGITS: (5, 10)}
    assert {kind: rows.shape[1] for kind, rows in features.items()} == dict(extractor.dims)
    assert extractor.weights_sha256 == hashlib.sha256(asset_path(f"digits{CLASSIFIER}").read_bytes()).hexdigest()


@pytest.mark.parametrize("factor", [2, 5, 32])
def test_enlarged_digits_give_the_features_of_the_small_ones(factor: int) -> None:
    images = digits()[0][:8]
    enlarged = images.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    extractor = load_extractor("digits")
    small, large = extractor.features(images), extractor.features(enlarged)
    torch.testing.assert_close(small[POOL], large[POOL], rtol=1e-4, atol=1e-4)


def test_grey_images_need_no_third_channel() -> None:
    images = digits()[0][:8]
    assert torch.equal(*(class_labels(part, load_extractor("digits")) for part in (images, images[..., :1])))


def test_the_network_sees_pixels_between_minus_one_and_one() -> None:
    seen = classifier_inputs(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 8, 8, 3), 1, 8)
    assert seen.shape == (2, 1, 8, 8)
    assert seen[0].unique().tolist() == [-1]
    assert seen[1].unique().tolist() == [1]


def test_features_do_not_depend_on_the_batch() -> None:
    images, extractor = digits()[0][:12], load_extractor("digits")
    one_by_one = torch.cat([extractor.features(image[None])[POOL] for image in images])
    torch.testing.assert_close(extractor.features(images)[POOL], one_by_one, rtol=1e-4, atol=1e-5)


def test_features_are_float32_whatever_a_gpu_may_round(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor, seen = load_extractor("digits"), list[tuple[str, bool]]()
    assert isinstance(extractor, ClassifierExtractor)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    convolution = next(part for part in extractor._network.modules() if isinstance(part, torch.nn.Conv2d))
    convolution.register_forward_hook(
        lambda *_: seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
    )
    extractor.features(digits()[0][:1])
    assert seen == [("highest", False)]
    assert torch.backends.cudnn.allow_tf32


def test_missing_weights_are_an_environment_problem(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="no extractor weights"):
        load_classifier(tmp_path / "none.safetensors", "x")


@pytest.mark.parametrize("content", [b"", b"<html></html>" * 20])
def test_damaged_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a classifier"):
        load_classifier(path, "x")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="not a classifier"):
        load_classifier(path, "x")

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medcli.errors import ConfigError, DataError
from medcli.scores.classifier import ClassifierExtractor, SmallClassifier, classifier_inputs
from medcli.scores.extractor import LOGITS, POOL
from medcli.scores.registry import load_extractor
from medcli.scores.torchscript import MAX_CODE_BYTES


def test_an_extractor_is_found_by_name() -> None:
    assert isinstance(load_extractor("digits"), ClassifierExtractor)


def test_an_unknown_extractor_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="dino") as caught:
        load_extractor("dino")
    assert caught.value.hint == "choose one of inception, digits, fashion, or name a file"


@pytest.mark.parametrize(("channels", "halvings"), [(1, 0), (1, 2), (3, 1)])
def test_a_classifier_of_any_size_is_read_from_its_file(tmp_path: Path, channels: int, halvings: int) -> None:
    network = SmallClassifier(channels, 5, halvings)
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    extractor = load_extractor("own", weights_path=tmp_path / "own.safetensors")
    images = torch.randint(0, 256, (3, 20, 20, 3), dtype=torch.uint8)
    inputs = classifier_inputs(images, channels, 8 * 2**halvings)
    features, logits = network.eval()(inputs)
    found = extractor.features(images)
    assert extractor.name == "own"
    torch.testing.assert_close(found[POOL], features.detach())
    torch.testing.assert_close(found[LOGITS], logits.detach())
    assert inputs.shape == (3, channels, 8 * 2**halvings, 8 * 2**halvings)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_module_is_called_with_levels(tmp_path: Path) -> None:
    class Means(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    extractor = load_extractor("means", weights_path=tmp_path / "means.pt")
    images = torch.tensor([10, 20, 250], dtype=torch.uint8).expand(2, 4, 4, 3)
    assert dict(extractor.dims) == {POOL: 3}
    assert extractor.features(images)[POOL].tolist() == [[10, 20, 250]] * 2


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_module_that_returns_no_rows_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "same.pt"))
    with pytest.raises(DataError, match="same returns"):
        load_extractor("same", weights_path=tmp_path / "same.pt")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_small_module_of_much_code_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Flatten()).save(str(tmp_path / "large.pt"))
    with zipfile.ZipFile(tmp_path / "large.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large/code/more.py", b" " * (MAX_CODE_BYTES + 1))
    with pytest.raises(DataError, match="bytes of code"):
        load_extractor("large", weights_path=tmp_path / "large.pt")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no weights")
    with pytest.raises(DataError, match="not a classifier made by medcli"):
        load_extractor("x", weights_path=tmp_path / "x.pt")

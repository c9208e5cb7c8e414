from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

import medcli
from medcli.checkpoint.reader import open_checkpoint
from medcli.errors import CheckpointError, ConfigError
from medcli.model.backbone import random_model
from medcli.network import Network, changed, identities, open_network
from medcli.presets import preset_config
from medcli.settings.network import NetworkSource
from tests.unit.engine.tiny import PIXELS, RHO, save, state_of, with_ladder

SAMPLING = {"schedule": "dynamic", "rho": list(RHO), "warmup_steps": 2, "distance": "l2", "cfg_scale": 1.0, "steps": 5}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "tiny.safetensors", sampling=SAMPLING, reference="digits")


def opened(file: Path, **changes: object) -> Network:
    return open_network(NetworkSource(checkpoint=file, **changes))  # type: ignore[arg-type]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_without_changes_the_network_is_the_file(file: Path) -> None:
    network = opened(file)
    assert (network.name, network.config) == ("tiny.safetensors", PIXELS)
    assert network.info is not None
    assert network.sampling == SAMPLING
    assert same(network.load().state_dict(), state_of(PIXELS))
    assert network.load(dtype=torch.bfloat16).pos_embed.dtype == torch.bfloat16


def test_without_a_checkpoint_it_is_the_bundled_model() -> None:
    assert open_network(NetworkSource()).config.num_classes == 10


def test_a_file_is_opened_once_for_description_and_weights(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        "medcli.network.open_checkpoint",
        lambda *words, **named: calls.append(words) or open_checkpoint(*words, **named),
    )
    network = opened(file, mediators=(4,))
    network.load()
    network.surgery()
    assert network.fingerprint
    assert len(calls) == 1


def test_changes_apply_to_configuration_and_weights(file: Path) -> None:
    network = opened(file, mediators=(4, 9), layers="0", res=16, num_classes=3)
    assert (network.config.mediators, network.config.mediator_layers) == ((4, 9), (0,))
    assert (network.config.resolution_px, network.config.num_classes) == (16, 3)
    assert network.load().config == network.config
    assert torch.equal(
        network.load().state_dict()["final_layer.linear.bias"], state_of(PIXELS)["final_layer.linear.bias"]
    )


def test_thresholds_belong_to_their_ladder_and_guidance_stays(file: Path) -> None:
    kept = {"cfg_scale": 1.0, "steps": 5}
    assert opened(file, mediators=(1, 4)).sampling == kept == opened(file, mediators=()).sampling
    assert opened(file, layers="0").sampling == SAMPLING
    assert opened(file, mediators=(1, 4)).header().sampling == kept


def test_a_reference_set_belongs_to_the_same_kind_of_images(file: Path) -> None:
    assert opened(file, mediators=(1, 4)).header().reference == "digits"
    assert opened(file, res=16).header().reference is None
    assert opened(file, num_classes=3).header().reference is None


@pytest.mark.parametrize("added", [True, False])
def test_a_dense_network_gets_a_ladder_only_where_the_command_adds_one(tmp_path: Path, added: bool) -> None:
    file = save(tmp_path / "dense.safetensors", with_ladder(PIXELS))
    network = open_network(NetworkSource(checkpoint=file, family="sit", heads=2), add_mediators=added)
    assert bool(network.config.mediators) == added
    if added:
        assert network.config.mediator_layers == (0, 1)
    assert changed(network, NetworkSource(mediators=())).config.mediators == ()


def test_a_conversion_names_its_source_without_its_place(file: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    moved = tmp_path / "deep" / file.name
    moved.write_bytes(file.read_bytes())
    headers = [opened(path).header().to_metadata() for path in (file, moved)]
    assert headers[0] == headers[1]
    assert opened(file).header().source == {"name": file.name, "fingerprint": opened(file).fingerprint}


def test_a_preset_is_one_only_where_the_command_takes_presets() -> None:
    network = open_network(NetworkSource(checkpoint="sit-s/2"), fresh=random_model)
    assert (network.name, network.config) == ("SiT-S/2", preset_config("SiT-S/2"))
    assert (network.info, network.sampling) == (None, {})
    with pytest.raises(CheckpointError, match="does not exist"):
        open_network(NetworkSource(checkpoint="sit-s/2"))


def test_changes_that_do_not_fit_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="no block 7"):
        opened(file, layers="7")
    with pytest.raises(ConfigError, match="leaves no block"):
        opened(file, layers="none", mediators=(4,))


def test_the_fingerprint_is_of_contents_and_not_of_the_name(file: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.safetensors", seed=1)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    assert opened(copy).fingerprint == opened(file).fingerprint != opened(other).fingerprint


@pytest.mark.parametrize("name", [name for name in state_of(PIXELS) if name != "pos_embed"])
def test_a_change_of_any_tensor_changes_the_fingerprint(file: Path, tmp_path: Path, name: str) -> None:
    model = medcli.load(file)
    with torch.no_grad():
        model.state_dict()[name].mul_(1.01)
    medcli.save(model, tmp_path / "changed.safetensors")
    assert opened(tmp_path / "changed.safetensors").fingerprint != opened(file).fingerprint


def test_other_heads_are_another_network(tmp_path: Path) -> None:
    torch.save(state_of(with_ladder(PIXELS)), tmp_path / "sit.pt")
    prints = {opened(tmp_path / "sit.pt", heads=heads).fingerprint for heads in (2, 4)}
    assert len(prints) == 2


def test_an_identity_is_compared_as_it_was_recorded(file: Path) -> None:
    network, whole = opened(file), hashlib.sha256(file.read_bytes()).hexdigest()
    now = {"file": file.name, "fingerprint": network.fingerprint, "sha256": whole}
    old = {"file": file.name, "sha256": whole}
    assert network.identity() == network.identity(now) == now
    assert network.identity(old) == old
    assert identities([network, network], [old, now]) == [old, now]
    assert identities([network], "damaged") == identities([network], [old, old]) == [now]


def test_a_large_file_is_not_hashed_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcli.network.SMALL_FILE_BYTES", 100)
    assert opened(file).identity()["sha256"] is None


@pytest.mark.parametrize(("flag", "hint"), [("family", "sit"), ("heads", 6), ("weights", "model")])
def test_hints_for_a_checkpoint_are_refused_beside_a_preset(flag: str, hint: object) -> None:
    with pytest.raises(ConfigError, match=f"--{flag} does nothing with the preset SiT-S/2"):
        open_network(NetworkSource(checkpoint="SiT-S/2", **{flag: hint}), fresh=random_model)  # type: ignore[arg-type]

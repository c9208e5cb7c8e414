"""Damage inside tensors is found while they are read, and the tensor is named."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import medcli
from medcli.checkpoint.value_check import TRAINED
from medcli.errors import CheckpointError
from medcli.network import open_network
from medcli.settings.network import NetworkSource
from medcli.workflows.convert import ConvertRequest, convert
from tests.unit.checkpoint.builders import random_state

NAME = "blocks.1.mlp.fc1.weight"


def repack(path: Path) -> None:
    source = NetworkSource(checkpoint=path, heads=2, layers="none")
    convert(ConvertRequest(network=source, output=path.with_name("out.safetensors")))


def load(path: Path) -> object:
    return medcli.load(path, num_heads=2)


def flip(path: Path, name: str) -> None:
    """Change one bit of a tensor's bytes."""
    number = list(random_state()).index(name)
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(f"/data/{number}"))
    with path.open("r+b") as file:
        file.seek(info.header_offset + 26)
        offset = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
        file.seek(offset)
        first = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([first ^ 1]))


@pytest.mark.parametrize("read", [repack, load])
def test_a_flipped_bit_is_found_by_the_records_checksum(tmp_path: Path, read: Callable[[Path], object]) -> None:
    torch.save(random_state(), tmp_path / "sit.pt")
    flip(tmp_path / "sit.pt", NAME)
    with pytest.raises(CheckpointError, match=rf"CRC-32\) of {NAME}"):
        read(tmp_path / "sit.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["sit.pt"]


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="this torch always writes checksums")
def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(random_state(), tmp_path / "sit.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    repack(tmp_path / "sit.pt")
    assert (tmp_path / "out.safetensors").exists()


def test_a_matrix_of_zeros_is_named(tmp_path: Path) -> None:
    torch.save({**random_state(), NAME: torch.zeros_like(random_state()[NAME])}, tmp_path / "sit.pt")
    with pytest.raises(CheckpointError, match=f"all weights of {NAME} are zero"):
        repack(tmp_path / "sit.pt")
    with pytest.raises(CheckpointError, match=f"all weights of {NAME} are zero"):
        open_network(NetworkSource(checkpoint=tmp_path / "sit.pt", heads=2)).load()


def test_a_fresh_model_has_no_matrix_that_counts_as_damaged(tmp_path: Path) -> None:
    for family, more in (("sit", {}), ("mdtv2", {"depth": 5, "decoder_depth": 1})):
        config = medcli.ModelConfig(
            family=family,
            hidden_size=16,
            num_heads=2,
            latent_size=8,
            **({"depth": 2} | more),  # type: ignore[arg-type]
        )
        medcli.save(medcli.new(config), tmp_path / "new.safetensors")
        assert medcli.load(tmp_path / "new.safetensors").config == config


def test_matrices_of_all_families_are_checked() -> None:
    for name in (NAME, "en_inblocks.0.attn.qkv.weight", "de_blocks.1.attn.proj.weight", "x_embedder.proj.weight"):
        assert TRAINED.fullmatch(name)
    for name in ("blocks.0.adaLN_modulation.1.weight", "final_layer.linear.weight", "blocks.0.attn.qkv.bias"):
        assert not TRAINED.fullmatch(name)

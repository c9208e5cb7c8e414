"""Files of REPA and LightningDiT made by running their code, with their outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

PEERS = Path(__file__).parent / "data" / "golden-peers"
REPA = ("repa_linear", "repa_cosine", "repa_qknorm")
LIGHTNINGDIT = ("ldit_full", "ldit_qknorm", "ldit_wo_shift", "ldit_p2c4")


def case_of(name: str) -> dict[str, Any]:
    """Sizes, settings and tolerances of a case."""
    found: dict[str, Any] = json.loads((PEERS / name / "case.json").read_text())
    return found


def file_of(name: str) -> Path:
    return PEERS / name / case_of(name)["file"]


def tensors_of(name: str, part: str) -> dict[str, Tensor]:
    return load_file(PEERS / name / f"{part}.safetensors")


def heads_of(name: str) -> int | None:
    """Heads where the file does not show them."""
    network = case_of(name)["network"]
    shown = network.get("use_rope") or network.get("qk_norm") or network.get("use_qknorm")
    return None if shown else network["num_heads"]


def relative(found: Tensor, expected: Tensor) -> float:
    """||a - b|| / ||b||."""
    norm = torch.linalg.vector_norm
    return float(norm(found.double() - expected.double()) / norm(expected.double()))

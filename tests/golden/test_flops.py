"""Cost against fvcore's counts of the reference implementations, operator by operator (golden `flops_reference`)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medcli.config import ModelConfig
from medcli.cost.macs import closed_form_macs, macs_by_operator
from medcli.cost.traced_macs import counts_by_module, trace_costs
from medcli.model.backbone import DiffusionTransformer
from medcli.model.layout import num_params
from medcli.presets import preset_config

ROWS = json.loads((Path(__file__).parent / "data/flops_reference.json").read_text())["rows"]
REARRANGEMENT = "einsum"
"""fvcore counts the reference's unpatchify, which multiplies nothing; ours is a permutation, and free."""
TOLERANCE = 1e-3

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']} {row['image_size']}")


def config_of(row: dict[str, Any]) -> ModelConfig:
    """The network a row names: `SiT-XL/2 first4 n=16`, `SiT-S/2 r=0.75`."""
    preset, *words = row["model"].split()
    config = preset_config(preset, resolution_px=row["image_size"])
    layers = tuple(range(config.depth))
    for word in words:
        if word.startswith("first"):
            layers = tuple(range(int(word.removeprefix("first"))))
        elif word.startswith("n="):
            config = replace(config, mediators=(int(word[2:]),), mediator_layers=layers)
        elif word.startswith("r="):
            config = replace(config, qk_ratio=float(word[2:]))
    return config


def costly(row: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in row["by_operator"].items() if name != REARRANGEMENT}


@each_row
def test_closed_form_equals_the_reference(row: dict[str, Any]) -> None:
    config = config_of(row)
    assert macs_by_operator(config) == costly(row)
    assert closed_form_macs(config) == pytest.approx(row["fvcore_total"], rel=TOLERANCE)
    assert num_params(config) == row["parameters"]


@each_row
def test_trace_equals_the_reference(row: dict[str, Any]) -> None:
    config = config_of(row)
    entry = config.resolve_count(None)
    costs = trace_costs(config, {0, entry})
    assert costs.by_operator(config, entry) == costly(row)
    assert costs.macs(config, entry) == pytest.approx(row["fvcore_total"], rel=TOLERANCE)


@pytest.mark.parametrize("name", ["DiT-S/8", "SiT-S/2 n=16", "SiT-S/2 r=0.5"])
def test_tracing_a_whole_network_at_its_own_size_equals_the_reference(name: str) -> None:
    row = next(row for row in ROWS if row["model"] == name)
    config = config_of(row)
    counts = counts_by_module(DiffusionTransformer(config), config.resolve_count(None))
    assert counts[""] == costly(row)


def test_published_numbers_are_ours_truncated() -> None:
    # Published DiT numbers count LayerNorm at 1 instead of 4 per element; mediator and q-k numbers are fvcore's.
    published = {row["model"]: row["published_gflops"] for row in ROWS if row["published_gflops"] is not None}
    ours = {row["model"]: closed_form_macs(config_of(row)) / 1e9 for row in ROWS if row["image_size"] == 256}
    ablations = [name for name in published if " " in name]
    assert len(ablations) == 6
    for name in ablations:
        assert published[name] == pytest.approx(int(ours[name] * 100) / 100), name

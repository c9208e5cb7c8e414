"""The closed form: what scales how, what each count means, and the numbers of the documents."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import medcli
from medcli.cost.macs import closed_form_macs, dense, macs_by_operator
from medcli.errors import ConfigError
from medcli.model.backbone import empty_model
from medcli.presets import preset_config

DOCUMENT = Path(__file__).parents[3] / "docs" / "flops.md"
SMALL = preset_config("SiT-S/2")
LADDER = replace(SMALL, mediators=(4, 16, 64), mediator_layers=(0, 1, 2, 3))


def test_full_attention_grows_with_the_square_of_the_tokens_and_mediators_linearly() -> None:
    at_256, at_512 = LADDER, LADDER.at_resolution(512)
    full = [macs_by_operator(config, num_mediators=0)["matmul"] for config in (at_256, at_512)]
    assert full[1] == 16 * full[0]
    everywhere = [replace(config, mediator_layers=tuple(range(12))) for config in (at_256, at_512)]
    mediated = [macs_by_operator(config, num_mediators=16)["matmul"] for config in everywhere]
    assert mediated[1] == 4 * mediated[0]


def test_zero_mediators_cost_what_the_dense_network_costs() -> None:
    assert macs_by_operator(LADDER, num_mediators=0) == macs_by_operator(SMALL)
    assert dense(replace(SMALL, qk_ratio=0.5)) == dense(LADDER) == SMALL


def test_no_count_means_the_largest_of_the_ladder() -> None:
    assert closed_form_macs(LADDER) == closed_form_macs(LADDER, num_mediators=64)
    assert closed_form_macs(SMALL) == closed_form_macs(SMALL, num_mediators=0)


def test_each_mediated_layer_counts() -> None:
    costs = [closed_form_macs(replace(LADDER, mediator_layers=tuple(range(count)))) for count in (1, 2, 12)]
    assert costs[1] - closed_form_macs(SMALL) == 2 * (costs[0] - closed_form_macs(SMALL))
    assert costs[2] - closed_form_macs(SMALL) == 12 * (costs[0] - closed_form_macs(SMALL))


def test_many_mediators_on_few_tokens_cost_more_than_full_attention() -> None:
    config = replace(preset_config("SiT-S/8"), mediators=(64,), mediator_layers=tuple(range(12)))
    assert closed_form_macs(config) > closed_form_macs(config, num_mediators=0)


@pytest.mark.parametrize("ladder_of", [lambda config: config, empty_model], ids=["config", "model"])
def test_count_macs_takes_a_config_or_a_model(ladder_of) -> None:
    macs = medcli.count_macs(ladder_of(LADDER), resolution_px=512, num_mediators=16)
    assert isinstance(macs, float)
    assert macs == closed_form_macs(LADDER, resolution_px=512, num_mediators=16)
    assert macs == closed_form_macs(LADDER.at_resolution(512), num_mediators=16)


def test_count_macs_without_options_is_the_model_as_it_is() -> None:
    assert medcli.count_macs(preset_config("DiT-XL/2")) == pytest.approx(118.689e9, rel=1e-4)


@pytest.mark.parametrize("options", [{"num_mediators": 9}, {"num_mediators": -4}, {"resolution_px": 100}])
def test_what_does_not_fit_the_model_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        medcli.count_macs(LADDER, **options)


def test_count_macs_of_a_config_loads_no_torch() -> None:
    program = (
        "import sys, medcli, medcli.presets as p; medcli.count_macs(p.preset_config('SiT-B/2'));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def documented() -> list[tuple[str, int, str, str, str]]:
    rows = re.findall(r"^\| (\w+-\w+/\d) \| (\d+) \| ([^|]+) \| ([^|]+) \| ([\d.]+) \|$", DOCUMENT.read_text(), re.M)
    return [(name, int(px), attention, paper, gmacs) for name, px, attention, paper, gmacs in rows]


def test_the_document_has_its_table() -> None:
    assert len(documented()) == 17


@pytest.mark.parametrize("row", documented(), ids=lambda row: " ".join(map(str, row[:3])))
def test_the_numbers_of_the_document_are_right(row: tuple[str, int, str, str, str]) -> None:
    name, px, attention, paper, gmacs = row
    config = preset_config(name, resolution_px=px)
    if attention.startswith("qk "):
        config = replace(config, qk_ratio=float(attention[3:]))
    elif attention != "full":
        count, _, layers = attention.partition(" in ")
        blocks = tuple(range(config.depth if layers == "all" else 4))
        config = replace(config, mediators=(int(count),), mediator_layers=blocks)
    assert gmacs == f"{closed_form_macs(config) / 1e9:.4f}"
    if paper != "-":
        assert float(paper) == pytest.approx(float(gmacs), rel=5e-3)


@pytest.mark.parametrize(("px", "saved"), [(512, 15.7), (1024, 45.4)])
def test_the_savings_the_document_names_are_right(px: int, saved: float) -> None:
    config = replace(preset_config("SiT-B/2"), mediators=(64,), mediator_layers=tuple(range(12))).at_resolution(px)
    share = 100 * (1 - closed_form_macs(config) / closed_form_macs(config, num_mediators=0))
    assert int(10 * share) / 10 == saved
    assert f"{saved} % at {px} px" in DOCUMENT.read_text()

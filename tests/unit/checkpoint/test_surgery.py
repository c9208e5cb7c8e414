"""Surgery keeps what is trained, starts the rest neutral, and says which is which."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medcli.checkpoint.load import load_tensors
from medcli.checkpoint.reader import position_records
from medcli.checkpoint.surgery import (
    LABEL_TABLE,
    Surgery,
    default_layers,
    operate,
    resize_linear,
    target_config,
)
from medcli.checkpoint.tensor_record import TensorRecord
from medcli.checkpoint.writer import record_of
from medcli.config import ModelConfig
from medcli.errors import ConfigError
from medcli.model.backbone import empty_model
from medcli.model.grid_tables import position_table
from medcli.model.layout import blocks, position_tables, tensor_shapes
from medcli.presets import preset_config
from tests.unit.checkpoint.builders import TINY, random_state

LADDER = replace(TINY, mediators=(4, 16), mediator_layers=(0, 2))


def records_of(config: ModelConfig) -> dict[str, TensorRecord]:
    return {name: record_of(name, tensor) for name, tensor in random_state(config).items()}


def tensors_of(surgery: Surgery) -> dict[str, torch.Tensor]:
    tensors = load_tensors(surgery.records, "x")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == tensor_shapes(surgery.config)
    return tensors


def run(config: ModelConfig, **wishes: object) -> tuple[Surgery, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    options = {"mediators": None, "layers": None, **wishes}
    surgery = operate(records_of(config), config, target_config(config, **options))  # type: ignore[arg-type]
    return surgery, tensors_of(surgery), random_state(config)


def test_a_dense_model_gets_neutral_mediators() -> None:
    surgery, after, before = run(TINY)
    assert (surgery.config.mediators, surgery.config.mediator_layers) == ((4, 16), tuple(range(TINY.depth)))
    assert set(surgery.copied) == set(before)
    assert len(surgery.new) == TINY.depth * (2 * 6 + 2)
    assert (surgery.resized, surgery.dropped) == ((), ())
    assert all(torch.equal(after[name], before[name]) for name in surgery.copied)
    assert not any(after[name].any() for name in surgery.new)


def test_by_default_an_edt_gets_mediators_where_they_save() -> None:
    edt = preset_config("EDT-S/2", resolution_px=256)
    outer = tuple(layer for layer, block in enumerate(blocks(edt)) if block.num_tokens == 256)
    assert default_layers(edt, 64) == outer
    assert len(default_layers(edt, 16)) > len(outer)
    assert default_layers(TINY, 10_000) == default_layers(TINY, 4) == tuple(range(TINY.depth))
    assert target_config(edt, mediators=None, layers=None).mediator_layers == outer


def test_a_converted_layer_is_the_bare_bottleneck_on_the_trained_projections() -> None:
    surgery, after, _ = run(TINY, mediators=(4,), layers=(0,))
    model = empty_model(surgery.config)
    model.load_state_dict(after, assign=True)
    x_BND = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    attn = model.double().blocks[0].attn
    query, key, value = attn.qkv(x_BND).reshape(2, 64, 3, 2, 8).permute(2, 0, 3, 1, 4)
    grid = attn.qkv(x_BND)[..., :16].transpose(1, 2).reshape(2, 16, 8, 8)
    mediator = torch.nn.functional.adaptive_avg_pool2d(grid, 2).flatten(2).transpose(1, 2).reshape(2, 4, 2, 8)
    mediator = mediator.transpose(1, 2)
    summary = (mediator @ key.mT / 8**0.5).softmax(-1) @ value
    expected = attn.proj(((query @ mediator.mT / 8**0.5).softmax(-1) @ summary).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attn(x_BND, 4), expected)


def test_a_ladder_is_reselected_by_count() -> None:
    surgery, after, before = run(LADDER, mediators=(1, 16))
    assert surgery.config.mediator_layers == (0, 2)
    for layer in (0, 2):
        prefix = f"blocks.{layer}.attn.ladder"
        assert torch.equal(after[f"{prefix}.16.an_bias"], before[f"{prefix}.16.an_bias"])
        assert not after[f"{prefix}.1.an_bias"].any()
        assert f"{prefix}.4.an_bias" in surgery.dropped
    assert len(surgery.new) == len(surgery.dropped) == 12
    assert torch.equal(after["blocks.0.attn.dwc.weight"], before["blocks.0.attn.dwc.weight"])


@pytest.mark.parametrize("count", [4, 16])
def test_one_count_takes_upstreams_names_and_gives_them_back(count: int) -> None:
    single, after, before = run(LADDER, mediators=(count,))
    assert torch.equal(after["blocks.2.attn.ha_bias"], before[f"blocks.2.attn.ladder.{count}.ha_bias"])
    back = operate(single.records, single.config, LADDER)
    for name in back.copied:
        assert torch.equal(tensors_of(back)[name], before[name])
    assert set(back.new) == {n for n in before if f"ladder.{20 - count}." in n}


def test_layers_come_and_go() -> None:
    surgery, after, before = run(LADDER, layers=(2, 3))
    assert torch.equal(after["blocks.2.attn.dwc.bias"], before["blocks.2.attn.dwc.bias"])
    assert not after["blocks.3.attn.dwc.weight"].any()
    assert all(name.startswith("blocks.0.attn.") for name in surgery.dropped)
    assert len(surgery.dropped) == len(surgery.new) == 14


def test_no_wishes_and_layers_none_keep_a_mediator_model_as_it_is() -> None:
    for layers in (None, ()):
        surgery, after, before = run(LADDER, layers=layers)
        assert surgery.config == LADDER
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_mediators_are_taken_out_on_demand() -> None:
    surgery, after, before = run(LADDER, mediators=())
    assert surgery.config == TINY
    assert len(surgery.dropped) == 2 * 14
    assert all(torch.equal(after[name], before[name]) for name in after)


def positions_of(config: ModelConfig, **changes: object) -> tuple[ModelConfig, torch.Tensor]:
    """Configuration and position table after a change."""
    surgery, after, _ = run(config, add_mediators=False, **changes)
    return surgery.config, after["pos_embed"][0]


def test_positions_are_laid_over_the_old_grid() -> None:
    config, table = positions_of(TINY, resolution_px=2 * TINY.resolution_px)
    assert config.positions_side == TINY.tokens_side
    side, axis = config.tokens_side, TINY.hidden_size // 2
    coordinates = (np.arange(side) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(table[:side, 0].numpy(), np.sin(coordinates), atol=1e-6)  # columns
    np.testing.assert_allclose(table[::side, axis].numpy(), np.sin(coordinates), atol=1e-6)  # rows


def test_a_model_at_half_its_resolution_gets_its_own_positions_back() -> None:
    small, table = positions_of(TINY, resolution_px=TINY.resolution_px // 2)
    coordinates = 2 * np.arange(small.tokens_side) + 0.5
    np.testing.assert_allclose(table[: small.tokens_side, 0].numpy(), np.sin(coordinates), atol=1e-6)
    back, table = positions_of(small, resolution_px=TINY.resolution_px)
    assert back == TINY  # the original grid is remembered, so nothing is rounded twice
    np.testing.assert_array_equal(table.numpy(), position_table(TINY.hidden_size, TINY.tokens_side))


def test_positions_anew_at_the_same_resolution_leave_the_old_grid() -> None:
    small = TINY.at_resolution(TINY.resolution_px // 2, positions="interpolate")
    config, table = positions_of(small, resolution_px=small.resolution_px, positions="anew")
    assert not config.positions_side
    np.testing.assert_array_equal(table.numpy(), position_table(TINY.hidden_size, small.tokens_side))


def test_every_table_of_an_edt_is_laid_over_its_own_old_grid() -> None:
    edt = preset_config("EDT-S/2", resolution_px=256).at_resolution(512, positions="interpolate")
    tables = position_records(edt, "F32")
    for name, (width, side) in position_tables(edt).items():
        table = np.frombuffer(tables[name].read(), np.float32).reshape(side**2, width)
        np.testing.assert_allclose(table[:side, 0], np.sin((np.arange(side) + 0.5) / 2 - 0.5), atol=1e-6)


def test_learned_positions_cannot_start_anew() -> None:
    with pytest.raises(ConfigError, match="an MDTv2 learns its positions"):
        target_config(preset_config("MDTv2-S/2"), mediators=None, layers=(), resolution_px=512, positions="anew")


def test_a_resolution_change_resamples_axis_tables() -> None:
    surgery, after, before = run(LADDER, resolution_px=256, positions="anew")
    assert surgery.config.latent_size == 32
    np.testing.assert_array_equal(after["pos_embed"][0].numpy(), position_table(16, 16))
    table = before["blocks.0.attn.ladder.4.wa_bias"]  # (1, H, 1, S, n)
    expected = torch.nn.functional.interpolate(
        table[0, :, 0].permute(0, 2, 1), size=16, mode="linear", align_corners=True
    ).permute(0, 2, 1)
    torch.testing.assert_close(after["blocks.0.attn.ladder.4.wa_bias"][0, :, 0], expected)
    assert len(surgery.resized) == 1 + 2 * 2 * 4
    assert "blocks.0.attn.ladder.4.an_bias" in surgery.copied


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 64])
@pytest.mark.parametrize("points", [1, 2, 5, 8])
def test_linear_resampling_is_torchs_with_aligned_corners(points: int, size: int) -> None:
    values = np.random.default_rng(0).standard_normal((3, points))
    expected = torch.nn.functional.interpolate(torch.tensor(values)[None], size=size, mode="linear", align_corners=True)
    np.testing.assert_allclose(resize_linear(values, 1, size), expected[0].numpy(), atol=1e-12)


def test_fewer_classes_keep_the_first_rows_and_the_null_row() -> None:
    surgery, after, before = run(TINY, num_classes=3)
    assert surgery.resized == (LABEL_TABLE,)
    assert torch.equal(after[LABEL_TABLE], before[LABEL_TABLE][[0, 1, 2, 6]])


def test_added_classes_start_as_the_null_class() -> None:
    _, after, before = run(TINY, num_classes=8)
    assert torch.equal(after[LABEL_TABLE], before[LABEL_TABLE][[0, 1, 2, 3, 4, 5, 6, 6, 6]])


def test_without_a_null_class_added_classes_start_at_zero() -> None:
    _, after, before = run(replace(TINY, has_null_class=False), num_classes=8)
    assert torch.equal(after[LABEL_TABLE][:6], before[LABEL_TABLE])
    assert not after[LABEL_TABLE][6:].any()


@pytest.mark.parametrize(
    "wishes",
    [{"mediators": (4,), "layers": ()}, {"mediators": (), "layers": (0,)}, {"resolution_px": 100}, {"mediators": (5,)}],
)
def test_wishes_that_do_not_fit_are_refused(wishes: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        run(TINY, **wishes)
    assert caught.value.hint


def test_compressed_queries_get_no_mediators_by_default() -> None:
    assert run(replace(TINY, qk_ratio=0.5))[0].config.mediators == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_new_tensors_take_the_type_of_the_model(dtype: torch.dtype) -> None:
    records = {name: record_of(name, tensor) for name, tensor in random_state(TINY, dtype=dtype).items()}
    target = target_config(TINY, mediators=(4,), layers=(0,), resolution_px=256, num_classes=9)
    tensors = load_tensors(operate(records, TINY, target).records, "x")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}

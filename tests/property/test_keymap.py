"""Renaming between layouts loses nothing, whatever the size of the model."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from medcli.checkpoint.keymap import from_diffusers, strip_wrappers, table_key, to_diffusers
from medcli.checkpoint.surgery import operate
from medcli.checkpoint.tensor_record import Region, TensorRecord
from medcli.checkpoint.writer import record_of
from medcli.config import ModelConfig
from medcli.model.layout import tensor_shapes
from tests.unit.checkpoint.builders import random_state

LADDERS = st.sets(st.sampled_from([1, 4, 9, 16, 64]), min_size=1).map(lambda counts: tuple(sorted(counts)))


@st.composite
def configs(draw: st.DrawFn, *, ladder: bool = False) -> ModelConfig:
    heads = draw(st.integers(1, 3))
    depth = draw(st.integers(1, 4))
    config = ModelConfig(
        family="sit" if ladder else "dit",
        hidden_size=4 * heads * draw(st.integers(1, 2)),
        depth=depth,
        num_heads=heads,
        patch_size=draw(st.sampled_from([1, 2])),
        latent_size=2 * draw(st.integers(1, 3)),
        num_classes=draw(st.integers(1, 5)),
        learn_sigma=draw(st.booleans()),
    )
    if not ladder:
        return config
    layers = draw(st.sets(st.integers(0, depth - 1), min_size=1))
    return replace(config, mediators=draw(LADDERS), mediator_layers=tuple(sorted(layers)))


@settings(deadline=None, max_examples=30)
@given(configs())
def test_diffusers_names_and_back_give_every_byte(config: ModelConfig) -> None:
    records = {name: record_of(name, tensor) for name, tensor in random_state(config).items()}
    renamed = to_diffusers(records, config.depth)
    parts = [renamed[f"transformer_blocks.0.attn1.to_{part}.weight"].read() for part in "qkv"]
    assert b"".join(parts) == records["blocks.0.attn.qkv.weight"].read()
    back = from_diffusers(renamed, config.depth)
    assert back.keys() == records.keys() - {"pos_embed"}
    for name, record in back.items():
        assert (record.name, record.dtype, record.shape) == (name, "F32", records[name].shape)
        assert record.read() == records[name].read()


@settings(deadline=None)
@given(configs(ladder=True))
def test_a_tensor_has_one_name_in_every_ladder_that_holds_it(config: ModelConfig) -> None:
    keys = [table_key(name, config.mediators) for name in tensor_shapes(config)]
    assert len(set(keys)) == len(keys)
    for count in config.mediators:
        single = replace(config, mediators=(count,))
        assert {table_key(name, (count,)) for name in tensor_shapes(single)} <= set(keys)


@settings(deadline=None, max_examples=30)
@given(configs(ladder=True), LADDERS)
def test_a_ladder_can_be_widened_and_narrowed_back(config: ModelConfig, extra: tuple[int, ...]) -> None:
    records = {name: record_of(name, tensor) for name, tensor in random_state(config).items()}
    wide = replace(config, mediators=tuple(sorted({*config.mediators, *extra})))
    there = operate(records, config, wide)
    back = operate(there.records, wide, config)
    assert list(there.dropped) == list(back.new) == list(back.resized) == []
    assert len(there.new) == len(back.dropped)
    assert {name: record.read() for name, record in back.records.items()} == {n: e.read() for n, e in records.items()}


@given(st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=4), st.sampled_from(["pos_embed", "blocks.0.x"]))
def test_wrappers_come_off_in_any_order(prefixes: list[str], name: str) -> None:
    wrapped = "".join(prefixes) + name
    assert strip_wrappers([wrapped], "x") == {wrapped: name}


@given(st.integers(1, 6), st.integers(1, 5), st.data())
def test_a_slice_of_a_region_stays_inside_it(rows: int, columns: int, data: st.DataObject) -> None:
    from pathlib import Path

    from medcli.checkpoint.tensor_record import row_slice

    record = TensorRecord("a", "F32", (rows, columns), (Region(Path("x"), 100, 4 * rows * columns),))
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    (piece,) = row_slice(record, "b", start, stop).pieces
    assert isinstance(piece, Region)
    assert piece.offset == 100 + 4 * columns * start
    assert piece.nbytes == 4 * columns * (stop - start)

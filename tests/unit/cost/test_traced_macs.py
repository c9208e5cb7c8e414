"""Counting by trace: nothing passes for free by accident, and three small grids tell every resolution."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medcli.config import ModelConfig
from medcli.cost import traced_macs
from medcli.cost.macs import closed_form_macs, macs_by_operator
from medcli.cost.traced_macs import TRACED_SIDES, counts_by_module, trace_costs
from medcli.errors import ExitCode, MedcliError
from medcli.model.backbone import DiffusionTransformer
from medcli.model.part_kinds import NORMS
from medcli.presets import preset_config

TINY = ModelConfig(
    family="sit",
    hidden_size=24,
    depth=5,
    num_heads=3,
    latent_size=12,
    in_channels=3,
    num_classes=7,
    mlp_ratio=3.0,
    mediators=(1, 4, 9),
    mediator_layers=(1, 3),
)
PIXELS = replace(TINY, family="dit", patch_size=1, learn_sigma=False, autoencoder=None, latent_downsample=1)
NARROW = replace(TINY, mediators=(), mediator_layers=(), qk_ratio=0.5)
CASES = [
    *[(config, count) for config in (TINY, PIXELS) for count in (0, 1, 4, 9)],
    (NARROW, 0),
    (replace(NARROW, qk_norm=True), 0),
    *[(replace(TINY, qk_norm=True, norm=norm), count) for norm in NORMS for count in (0, 4)],
    (replace(TINY, mediator_layers=(0, 1, 2, 3, 4)), 9),
]


@pytest.mark.parametrize(("config", "count"), CASES)
def test_composition_equals_the_trace_of_the_whole_network(config: ModelConfig, count: int) -> None:
    assert config.tokens_side not in TRACED_SIDES
    whole = counts_by_module(DiffusionTransformer(config), count)[""]
    assert trace_costs(config, {0, count}).by_operator(config, count) == whole
    assert macs_by_operator(config, num_mediators=count) == whole


@pytest.mark.parametrize("resolution_px", [48, 256, 1024])
def test_one_trace_serves_every_resolution(resolution_px: int) -> None:
    costs = trace_costs(TINY, (0, 4))
    config = TINY.at_resolution(resolution_px)
    assert costs.macs(config, 4) == closed_form_macs(config, num_mediators=4)


def test_bias_resize_is_counted_although_the_network_keeps_its_biases() -> None:
    model = DiffusionTransformer(TINY)
    with torch.no_grad():
        first, second = counts_by_module(model, 4)[""], counts_by_module(model, 4)[""]
    assert first == second
    assert first["upsample_bilinear2d"] == 2 * 8 * 3 * 4 * TINY.num_tokens


def test_fused_attention_is_counted_with_unequal_widths() -> None:
    dense, narrow = (counts_by_module(DiffusionTransformer(replace(NARROW, qk_ratio=r)), 0)[""] for r in (1.0, 0.5))
    tokens, width = TINY.num_tokens, TINY.hidden_size
    assert dense["matmul"] == TINY.depth * 2 * tokens**2 * width
    assert narrow["matmul"] == TINY.depth * 3 * tokens**2 * width // 2


class Odd(nn.Module):
    """A part that does what no handler knows."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the part and then something else."""
        return torch.fft.fft(self.part(*inputs)).real


def test_an_operator_without_a_handler_is_an_error_that_names_it() -> None:
    model = DiffusionTransformer(TINY)
    model.x_embedder = Odd(model.x_embedder)
    with pytest.raises(MedcliError, match="aten::fft_fft") as caught:
        counts_by_module(model, 4)
    assert caught.value.exit_code == ExitCode.BUG


def test_attention_without_its_handler_would_be_an_error_and_not_a_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "aten::scaled_dot_product_attention"
    monkeypatch.setattr(traced_macs, "HANDLERS", {n: h for n, h in traced_macs.HANDLERS.items() if n != name})
    with pytest.raises(MedcliError, match=name):
        trace_costs(TINY, (0,))


def test_only_what_is_listed_is_free() -> None:
    free = {name for name, handler in traced_macs.HANDLERS.items() if handler is None}
    assert not any(word in name for name in free for word in ("mm", "conv", "linear", "norm", "attention", "interp"))


def test_drift_between_code_and_closed_form_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = trace_costs(TINY, (0, 4))
    wrong = Counter(macs_by_operator(TINY, num_mediators=4)) + Counter(linear=1)
    monkeypatch.setattr(traced_macs, "macs_by_operator", lambda config, num_mediators: dict(wrong))
    with pytest.raises(MedcliError, match="linear costs") as caught:
        costs.macs(TINY, 4)
    assert caught.value.exit_code == ExitCode.BUG


def test_tracing_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        trace_costs(TINY, (0,))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_the_largest_preset_at_1024_px_takes_seconds_of_processor_time() -> None:
    start = time.process_time()
    config = preset_config("SiT-XL/2", resolution_px=1024)
    trace_costs(config, (0, 4, 16, 64))
    assert time.process_time() - start < 5

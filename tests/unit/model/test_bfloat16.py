"""bfloat16 weights: the sums over all blocks stay float32, which halves the error."""

from dataclasses import dataclass

import pytest
import torch

from medcli.config import ModelConfig
from medcli.model.backbone import DiffusionTransformer, random_model
from medcli.model.block import FinalLayer
from papers_network import PapersNetwork

COUNTS = (0, 4, 16)


@dataclass(frozen=True, slots=True)
class NarrowNetwork(PapersNetwork):
    """The network with every step in bfloat16."""

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return super(NarrowNetwork, self).linear(name, x.bfloat16())


def config_of(family: str) -> ModelConfig:
    return ModelConfig(
        family=family, hidden_size=48, depth=6, num_heads=3, latent_size=8, num_classes=5, mediators=COUNTS[1:],
        mediator_layers=(0, 1, 2, 4, 5),
    )  # fmt: skip


def inputs_of(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    t = torch.tensor([0.1, 0.4, 0.7, 0.9])
    if config.family == "dit":
        t = (1000 * t).long()
    return torch.randn(4, 4, 8, 8, generator=generator), t, torch.arange(4)


@pytest.mark.parametrize("family", ["sit", "dit"])
@pytest.mark.parametrize("count", COUNTS)
@torch.no_grad()
def test_the_error_is_far_below_that_of_bfloat16_throughout(family: str, count: int) -> None:
    model = random_model(config_of(family))
    inputs = inputs_of(model.config)
    expected = model(*inputs, num_mediators=count)
    model.bfloat16()
    latent, t, label = inputs
    narrow = NarrowNetwork(model.state_dict(), model.config, count)(latent.bfloat16(), t, label)
    error = (model(*inputs, num_mediators=count) - expected).norm()
    assert 0 < error <= 0.6 * (narrow - expected).norm()


@pytest.mark.parametrize("grad", [False, True])
def test_tokens_stay_float32_between_blocks_whose_products_are_bfloat16(grad: bool) -> None:
    model = random_model(config_of("sit")).bfloat16()
    types: dict[str, set[torch.dtype]] = {}

    def note(name: str) -> None:
        def hook(module: torch.nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
            types.setdefault(name, set()).update({given[0].dtype, made.dtype})

        model.get_submodule(name).register_forward_hook(hook)

    for name in ("blocks.0", "blocks.3", "blocks.0.attn", "blocks.0.mlp.fc2", "final_layer"):
        note(name)
    with torch.set_grad_enabled(grad):
        assert model(*inputs_of(model.config)).dtype == torch.float32
    wide, narrow = {torch.float32}, {torch.bfloat16}
    assert types == {
        "blocks.0": wide, "blocks.3": wide, "blocks.0.attn": narrow, "blocks.0.mlp.fc2": narrow, "final_layer": wide,
    }  # fmt: skip


def test_training_under_automatic_casts_reaches_every_weight() -> None:
    model = DiffusionTransformer(config_of("sit"))
    model.load_state_dict(random_model(model.config).state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(*inputs_of(model.config), num_mediators=4)
    output.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert name == "pos_embed" or "ladder.16" in name or parameter.grad.any(), name


@torch.no_grad()
def test_wider_types_stay_what_they_are() -> None:
    layer = FinalLayer(16, 8).double()
    assert layer(torch.zeros(1, 4, 16, dtype=torch.float64), torch.zeros(1, 16, dtype=torch.float64)).dtype == (
        torch.float64
    )

"""Selection of the parameters to train, by name, before weights are loaded."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from medcli.config import ModelConfig
from medcli.errors import ConfigError
from medcli.model.layout import block_names, tensor_shapes
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.values import check_as

FIXED = "pos_embed"
"""Suffix of position embeddings, which are fixed and never trained in all families but MDTv2."""

# The first pattern that matches a name determines its group.
GROUPS: dict[str, re.Pattern[str]] = {
    "embedding": re.compile(r"(x|t|y)_embedder\.|(decoder_)?pos_embed|mask_token"),
    "between the stages": re.compile(r"(down|up|concat)_blocks\."),
    "attention projections": re.compile(r"\w*blocks\.\d+\.attn\.(qkv|proj)\."),
    "tables of offsets": re.compile(r"\w*blocks\.\d+\.attn\.rel_pos_bias\."),
    "norms": re.compile(r"\w*blocks\.\d+\.(attn\.[qk]_norm|norm[12])\."),
    "mediator tables and convolutions": re.compile(r"\w*blocks\.\d+\.attn\."),
    "MLP": re.compile(r"\w*blocks\.\d+\.mlp\."),
    "adaLN": re.compile(r"\w*blocks\.\d+\.adaLN_modulation\."),
    "skips": re.compile(r"\w*blocks\.\d+\.skip_linear\."),
    "final layer": re.compile(r"final_layer\."),
}


@dataclass(frozen=True, slots=True)
class Selection:
    """Parameters of a model that are trained."""

    trained: frozenset[str]
    """Names of parameters."""
    config: ModelConfig

    def apply(self, model: nn.Module) -> None:
        """Set `requires_grad` of a model's parameters."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.trained)

    def groups(self) -> tuple[ParameterGroup, ...]:
        """Count parameters by group, in the order of the network; groups the model lacks are left out."""
        counts = {title: [0, 0] for title in GROUPS}
        for name, shape in tensor_shapes(self.config).items():
            title = next(title for title, pattern in GROUPS.items() if pattern.match(name))
            counts[title][name not in self.trained] += math.prod(shape)
        return tuple(ParameterGroup(title, *pair) for title, pair in counts.items() if any(pair))

    @property
    def num_trained(self) -> int:
        """Number of trained parameters."""
        return sum(group.num_trained for group in self.groups())

    @property
    def num_frozen(self) -> int:
        """Number of frozen parameters."""
        return sum(group.num_frozen for group in self.groups())


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameter counts of one group."""

    name: str
    num_trained: int
    num_frozen: int


def select(config: ModelConfig, train: str = "all", freeze: tuple[str, ...] = ()) -> Selection:
    """Select the parameters to train.

    Args:
        train: `all`; or `attention`: of the blocks with mediators, the attention alone (projections, depth-wise
            convolution, bias tables).
        freeze: Names of tensors or modules, such as `blocks.0` or `y_embedder`, that are frozen.

    Raises:
        ConfigError: If a name is not in the model, or nothing is left to train.
    """
    check_as(FinetuneRequest, train=train)
    if train == "attention" and not config.mediator_layers:
        raise ConfigError(
            "--train attention trains the attention of blocks with mediators, and this model has none",
            hint="add --mediators 4,16,64, or use --train all",
        )
    names = [name for name in tensor_shapes(config) if config.family == "mdtv2" or not name.endswith(FIXED)]
    for prefix in freeze:
        if not any(_is_within(name, prefix) for name in tensor_shapes(config)):
            raise ConfigError(
                f"--freeze {prefix!r}: no such tensor or module in the model", hint=_nearest(prefix, names)
            )
    attention = tuple(f"{block_names(config)[layer]}.attn" for layer in config.mediator_layers)
    trained = frozenset(
        name
        for name in names
        if (train == "all" or any(_is_within(name, part) for part in attention))
        and not any(_is_within(name, prefix) for prefix in freeze)
    )
    if not trained:
        raise ConfigError("--freeze leaves nothing to train", hint="freeze fewer modules")
    return Selection(trained, config)


def _is_within(name: str, part: str) -> bool:
    """Return whether a tensor is `part` or within it: `blocks.1` contains `blocks.1.mlp` and not `blocks.10`."""
    return f"{name}.".startswith(f"{part.rstrip('.')}.")


def _nearest(prefix: str, names: Iterable[str]) -> str:
    """Hint with the most similar module name."""
    parts = {".".join(words[:depth]) for words in (name.split(".") for name in names) for depth in range(1, 4)}
    near = difflib.get_close_matches(prefix, sorted(parts), n=1)
    return f"did you mean {near[0]}?" if near else "modules are named like blocks.0, blocks.0.mlp or y_embedder"

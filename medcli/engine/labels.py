"""Which class image i shows: a function of its number, so that no order or batch can change it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medcli.errors import ConfigError
from medcli.runtime.noise import Stream, integers

LabelSampling = Literal["equal", "random"]

# Dimension key: B images, K classes.


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The classes to show and how images take turns.

    Raises:
        ConfigError: If no class is given.
    """

    classes: tuple[int, ...]
    """Labels; one named twice comes twice as often."""
    sampling: LabelSampling = "equal"
    """`equal`: image i takes class i modulo their number; `random`: each draws one by itself, seeded."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("no classes to sample", hint="try --classes all")

    def of(self, seed: int, index_B: Tensor) -> Tensor:
        """(B,) int64 labels of the images with these numbers."""
        classes_K = torch.tensor(self.classes, device=index_B.device)
        if self.sampling == "equal":
            return classes_K[index_B % len(classes_K)]
        return classes_K[integers(seed, index_B, torch.zeros_like(index_B), len(classes_K), Stream.LABEL)]

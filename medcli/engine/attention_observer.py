"""An observer that scores the redundancy of attention at chosen solver steps.

During a chosen step, a forward pre-hook on each block's attention receives its input; the attention distributions are
recomputed from it a few rows at a time, scored and discarded. Other steps run unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcli.engine.networks import LadderNetwork, Network
from medcli.engine.observer import StepRows
from medcli.model.attention import Attention
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.noise import Stream, uniform
from medcli.scores.redundancy import CPU_PIECE, GPU_PIECE, AttentionRows, Redundancy, num_rings, redundancy

# Dimension key: B images of a batch, I images, L watched steps, H heads of a layer, N tokens, D width, C Y X latent.


@dataclass(frozen=True, slots=True)
class LayerScores:
    """Scores of one layer, float64; NaN where nothing was observed."""

    divergence_ILH: npt.NDArray[np.float64]
    """Mean Jensen-Shannon divergence between queries, nats; see `medcli.scores.redundancy`."""
    error_ILH: npt.NDArray[np.float64]
    """Standard error due to the choice of pairs."""
    distinct_ILH: npt.NDArray[np.float64]
    """Effective number of distinct queries."""


class AttentionObserver:
    """An `Observer` that scores the attention of every block at chosen steps.

    In a step of several network calls the first is scored, in a guided one the conditional half.

    Args:
        model: The model that is sampled.
        indices: Numbers of the images.
        steps: Solver steps to observe.
        seed: Seed of the random pairs, drawn for each image, step and layer.
        max_pairs: Maximum pairs of queries to compare in each head; None: all.
    """

    def __init__(
        self,
        model: DiffusionTransformer,
        indices: Sequence[int],
        steps: Sequence[int],
        *,
        seed: int = 0,
        max_pairs: int | None = None,
    ) -> None:
        self._blocks = model.ordered_blocks()
        self._image_of = {index: place for place, index in enumerate(indices)}
        self._step_of = {step: place for place, step in enumerate(steps)}
        self.steps = tuple(steps)
        """Observed solver steps."""
        self._seed, self._max_pairs = seed, max_pairs
        self._rows: StepRows | None = None
        shape = (len(self._image_of), len(self._step_of))
        self.layers = tuple(
            LayerScores(*(np.full((*shape, block.attn.num_heads), np.nan) for _ in range(3))) for block in self._blocks
        )
        """Scores of each block."""

    def wrapped(self, network: LadderNetwork) -> LadderNetwork:
        """Wrap a network so that its calls are observed; sample with the result."""
        forward: Network = network.forward

        def watched(latent_BCYX: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
            with self._hooked():
                return forward(latent_BCYX, t_B, label_B)

        return replace(network, forward=watched)

    def before(self, rows: StepRows) -> None:
        """Remember the rows if any image is at an observed step."""
        is_watched = any(step in self._step_of for step in rows.step_B.tolist())
        self._rows = rows if is_watched else None

    def after(self, rows: StepRows, before_BCYX: Tensor, after_BCYX: Tensor) -> None:
        """No-op."""

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """Install the hooks for one network call, if it is observed."""
        rows, self._rows = self._rows, None
        handles = []
        if rows is not None:
            for layer, block in enumerate(self._blocks):
                handles.append(block.attn.register_forward_pre_hook(_Listener(self, layer, rows)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def note(self, layer: int, rows: StepRows, attention: Attention, x_BND: Tensor) -> None:
        """Score the attention of a layer.

        Args:
            layer: Layer number.
            rows: Image and step of the leading rows of the input.
            attention: The layer.
            x_BND: Input of the layer; padding and null halves follow the rows of `rows`.
        """
        picked = [row for row, step in enumerate(rows.step_B.tolist()) if step in self._step_of]
        index_B, step_B = rows.index_B[picked], rows.step_B[picked]
        scores = self._score(layer, attention, x_BND[picked], index_B, step_B)
        images = [self._image_of[index] for index in index_B.tolist()]
        steps = [self._step_of[step] for step in step_B.tolist()]
        seen = self.layers[layer]
        for values_ILH, value_G in (
            (seen.divergence_ILH, scores.divergence_G),
            (seen.error_ILH, scores.error_G),
            (seen.distinct_ILH, scores.distinct_G),
        ):
            values_ILH[images, steps] = value_G.reshape(len(picked), -1).numpy()

    def _score(self, layer: int, attention: Attention, x_BND: Tensor, index_B: Tensor, step_B: Tensor) -> Redundancy:
        query_BND, key_BND, _ = attention.project(x_BND)
        num_queries, order_BN = x_BND.shape[1], None
        if num_rings(num_queries, self._max_pairs) < num_queries // 2:
            draw_B = step_B * len(self._blocks) + layer
            drawn_BN = uniform(self._seed, index_B, draw_B, num_queries, Stream.QUERY_ORDER)
            order_BN = drawn_BN.argsort(dim=1, stable=True).to(x_BND.device)
        rows = AttentionRows.of(
            attention.placed_heads(query_BND),
            attention.placed_heads(key_BND),
            attention.head_width**-0.5,
            bias_HNM=attention.offset_bias(None) if attention.has_relative_bias else None,
            order_BN=order_BN,
        )
        piece = CPU_PIECE if x_BND.device.type == "cpu" else GPU_PIECE
        num_heads = len(x_BND) * attention.num_heads
        return redundancy(rows, num_heads, num_queries, max_pairs=self._max_pairs, piece=piece)


@dataclass(frozen=True, slots=True, eq=False)
class _Listener:
    """Forward pre-hook that passes a layer's input on to the observer."""

    watch: AttentionObserver
    layer: int
    rows: StepRows

    def __call__(self, attention: Any, args: tuple[Any, ...]) -> None:
        with torch.no_grad():
            self.watch.note(self.layer, self.rows, attention, args[0])

"""Observers of sampling: the protocol, and one that records how far each step moves an image.

An observer is an argument of `medcli.engine.generate.generate` and does not change the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medcli.engine.batched_rule import distance
from medcli.schedule.spec import DistanceName

# Dimension key: B images of a batch, I images, L solver steps, C latent channels, Y X latent height and width.


@dataclass(frozen=True, slots=True)
class StepRows:
    """Image number and solver step of each row of a batch, without padding rows."""

    index_B: Tensor
    """Image numbers, int64 on the CPU."""
    step_B: Tensor
    """Solver step of each image, int64 on the CPU; steps may differ within a batch."""
    ladder_index: int
    """Common ladder index."""


class Observer(Protocol):
    """Callbacks around every batch, in the order batches run; the steps of each image come in order."""

    def before(self, rows: StepRows) -> None:
        """Called before a batch; network inputs hold the images of `rows`, then padding, then any null halves."""

    def after(self, rows: StepRows, before_BCYX: Tensor, after_BCYX: Tensor) -> None:
        """Called after a batch.

        Args:
            rows: The rows passed to `before`.
            before_BCYX: States before the step, float32 on the device; read-only.
            after_BCYX: States after the step.
        """


class Distances:
    """Records the distance of each step of each image, in every distance of the dynamic rule.

    Args:
        indices: Numbers of the images.
        num_steps: Solver steps per image.
    """

    def __init__(self, indices: Sequence[int], num_steps: int) -> None:
        self._place = {index: place for place, index in enumerate(indices)}
        shape = (len(self._place), num_steps)
        self.distance_IL: dict[str, npt.NDArray[np.float64]] = {
            name: np.full(shape, np.nan) for name in get_args(DistanceName)
        }
        """By name of the distance, float64: `medcli.engine.batched_rule.distance` of image i at step l. NaN until
        observed. The rule ignores step 0, the jump from the initial noise."""

    def before(self, rows: StepRows) -> None:
        """No-op."""

    def after(self, rows: StepRows, before_BCYX: Tensor, after_BCYX: Tensor) -> None:
        """Record the distances."""
        places = [self._place[index] for index in rows.index_B.tolist()]
        for name, values_IL in self.distance_IL.items():
            values_IL[places, rows.step_B.numpy()] = distance(name, before_BCYX, after_BCYX).cpu().numpy()


class Together:
    """Several observers as one, called in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def before(self, rows: StepRows) -> None:
        """Call every observer."""
        for observer in self._observers:
            observer.before(rows)

    def after(self, rows: StepRows, before_BCYX: Tensor, after_BCYX: Tensor) -> None:
        """Call every observer."""
        for observer in self._observers:
            observer.after(rows, before_BCYX, after_BCYX)

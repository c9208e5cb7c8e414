"""Looking on while images are made: what an observer is told, and one that notes how far each step moves an image.

An observer is an argument of `medcli.engine.generate.generate`. It changes nothing: images are the same with it.
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
    """Which images of a batch make which solver step; rows that only pad the batch are not among them."""

    index_B: Tensor
    """int64 image numbers, on the CPU."""
    step_B: Tensor
    """int64 solver step each of them makes, on the CPU; they may differ within a batch."""
    ladder_index: int
    """Ladder index of all of them."""


class Observer(Protocol):
    """Is told about every batch, in the order they run; each image's steps come in their order."""

    def before(self, rows: StepRows) -> None:
        """Learn which images' networks run next: first those of `rows`, then padding, then any null halves."""

    def after(self, rows: StepRows, before_BCYX: Tensor, after_BCYX: Tensor) -> None:
        """See what the step did.

        Args:
            rows: As told before.
            before_BCYX: float32 states the step started from, on the device; not to be written to.
            after_BCYX: States it led to.
        """


class Distances:
    """Notes how far each step moves each image, in both distances of the dynamic rule.

    Args:
        indices: Numbers of the images that will be made.
        num_steps: Solver steps of an image.
    """

    def __init__(self, indices: Sequence[int], num_steps: int) -> None:
        self._place = {index: place for place, index in enumerate(indices)}
        shape = (len(self._place), num_steps)
        self.distance_IL: dict[str, npt.NDArray[np.float64]] = {
            name: np.full(shape, np.nan) for name in get_args(DistanceName)
        }
        """By name of the distance, float64: `medcli.engine.batched_rule.distance` of image i at step l. NaN until
        seen. The rule never looks at step 0, the jump from the initial noise."""

    def before(self, rows: StepRows) -> None:
        """Nothing is needed in advance."""

    def after(self, rows: StepRows, before_BCYX: Tensor, after_BCYX: Tensor) -> None:
        """Measure."""
        places = [self._place[index] for index in rows.index_B.tolist()]
        for name, values_IL in self.distance_IL.items():
            values_IL[places, rows.step_B.numpy()] = distance(name, before_BCYX, after_BCYX).cpu().numpy()


class Together:
    """Several observers as one; they are told in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def before(self, rows: StepRows) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.before(rows)

    def after(self, rows: StepRows, before_BCYX: Tensor, after_BCYX: Tensor) -> None:
        """Tell all."""
        for observer in self._observers:
            observer.after(rows, before_BCYX, after_BCYX)

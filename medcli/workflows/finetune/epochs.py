"""Length of a run in epochs."""

from __future__ import annotations

import math
from dataclasses import replace

from medcli.errors import ConfigError
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.training import MAX_STEPS, TrainingSettings


def with_any_steps(request: FinetuneRequest) -> FinetuneRequest:
    """Return a request in epochs with as many steps as there may be, until the data tell how many it has.

    Raises:
        ConfigError: If steps are given beside epochs.
    """
    if request.epochs is None:
        return request
    if request.training.steps != TrainingSettings().steps:
        raise ConfigError(
            f"--steps {request.training.steps} and --epochs {request.epochs:g} contradict each other",
            hint="leave one of them out",
        )
    return replace(request, training=replace(request.training, steps=MAX_STEPS))


def steps_of(epochs: float, num_images: int, batch_size: int) -> int:
    """Return the number of steps in which every image is seen so many times; the last batch is filled up."""
    return math.ceil(epochs * num_images / batch_size)

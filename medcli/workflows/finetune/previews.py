"""Preview images during a run: one row per mediator count, sampled from the averaged weights.

Previews use random streams of their own, so that drawing one does not change the training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcli.data.autoencoder import Decoder, open_decoder
from medcli.engine.generate import generate
from medcli.engine.networks import ladder_networks
from medcli.engine.pictures import grid_of, write_png
from medcli.engine.plan import Labels, SamplingPlan
from medcli.errors import MedcliError
from medcli.model.backbone import empty_model
from medcli.runtime.reporting import Reporter
from medcli.schedule.spec import FULL, static
from medcli.settings.sampler import SamplerSettings
from medcli.settings.sampling import GuidanceSettings
from medcli.training.config import NEVER
from medcli.workflows.finetune.setup import FinetuneSetup
from medcli.workflows.sample.defaults import sampling_defaults
from medcli.workflows.sample.few_calls import few_calls_sampler
from medcli.workflows.sample.plan import choose_guidance

FOLDER = "previews"
NAME = "step-{step:06d}.png"
PATTERN = re.compile(r"step-(\d+)\.png")
COLUMNS = 8
FEW_CLASSES = range(4, 11)
"""Numbers of classes of which all are shown."""


class Previews:
    """Draw preview images at some of a run's checkpoints.

    Args:
        reporter: Receives notes about previews that can't be drawn.
    """

    def __init__(self, setup: FinetuneSetup, reporter: Reporter) -> None:
        self._setup, self._reporter = setup, reporter
        self._folder = setup.output / FOLDER
        self._every = setup.request.preview_every
        self._decoder = self._open_decoder() if self._every and setup.processes.is_first else None
        self._drawn = 0 if setup.training.resume == NEVER else self._newest()

    def wants(self, step: int) -> bool:
        """Return True at the first checkpoint after a multiple of the interval and at the last, unless it is drawn."""
        if self._decoder is None or step <= self._drawn:
            return False
        return step // self._every > self._drawn // self._every or step == self._setup.training.steps

    def draw(self, step: int, weights: Mapping[str, Tensor]) -> Path | None:
        """Draw a preview; failures are noted and do not stop the training.

        Args:
            step: Steps done.
            weights: The averaged weights by name, float32.

        Returns:
            Its file, or None.
        """
        assert self._decoder is not None
        self._drawn = step
        try:
            pictures = self._pictures(weights, self._decoder)
            write_png(self._folder / NAME.format(step=step), grid_of(pictures, self._columns))
        except MedcliError as err:
            self._reporter.note(f"no preview after step {step}: {err.message}")
            return None
        return self._folder / NAME.format(step=step)

    def clear(self) -> None:
        """Remove the previews of a run that is started over."""
        for file in self._folder.glob("step-*.png"):
            file.unlink()

    def _newest(self) -> int:
        """Return the step of the newest preview; 0 without one."""
        found = (PATTERN.fullmatch(file.name) for file in self._folder.glob("step-*.png"))
        return max((int(match[1]) for match in found if match), default=0)

    @property
    def _columns(self) -> int:
        num_classes = self._setup.config.num_classes
        return num_classes if num_classes in FEW_CLASSES else COLUMNS

    def _open_decoder(self) -> Decoder | None:
        setup = self._setup
        try:
            return open_decoder(setup.config, autoencoder=setup.autoencoder, device=setup.device)
        except MedcliError as err:
            self._reporter.note(f"no previews: {err.message}")
            return None

    def _pictures(self, weights: Mapping[str, Tensor], decoder: Decoder) -> list[npt.NDArray[np.uint8]]:
        """Sample images of all counts, row by row; a column shares its class and noise."""
        setup = self._setup
        model = empty_model(setup.config)
        model.load_state_dict(dict(weights), assign=True)
        model.requires_grad_(False).to(setup.device)
        pictures: list[npt.NDArray[np.uint8]] = []
        for count in setup.training.counts:
            plan = self._plan(count)
            made = generate(ladder_networks(model, (count,)), plan, range(self._columns), device=setup.device)
            latents = [image.latent_CYX for image in sorted(made, key=lambda image: image.index)]
            pictures += decoded(latents, decoder)
        return pictures

    def _plan(self, count: int) -> SamplingPlan:
        setup = self._setup
        config, loss, columns = setup.config, setup.training.loss, self._columns
        trained = SamplerSettings()
        if config.family == "sit":
            trained = SamplerSettings(path=loss.path, prediction=loss.prediction)
        return SamplingPlan(
            sampler=few_calls_sampler(trained, config, sampling_defaults(setup.start)),
            schedule=static(count) if count else FULL,
            labels=Labels(classes=tuple(column * config.num_classes // columns for column in range(columns))),
            guidance=choose_guidance(GuidanceSettings(), config, sampling_defaults(setup.start)),
            seed=setup.training.seed,
            batch_size=columns,
        )


def decoded(latents: list[Tensor], decoder: Decoder) -> list[npt.NDArray[np.uint8]]:
    """(Y, X, 3) uint8 images of (C, Y, X) latents, decoded in batches of the decoder's size."""
    size = decoder.batch_size
    pictures: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(latents), size):
        part = latents[start : start + size]
        padded_BCYX = torch.stack(part + part[:1] * (size - len(part)))
        pictures += list(decoder.decode(padded_BCYX).numpy()[: len(part)])
    return pictures

"""Generate the missing images of a sample folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from medcli.checkpoint.neutral import neutral_counts
from medcli.data.autoencoder import Decoder
from medcli.data.sampled_latents import SampledLatents
from medcli.engine.batch_fit import fitting_batch_size
from medcli.engine.cost import image_gmacs, pass_gmacs
from medcli.engine.decode_and_save import ImageWriter
from medcli.engine.effects import unreachable_moves
from medcli.engine.generate import generate
from medcli.engine.graphs import graphed
from medcli.engine.image_records import Record, file_name
from medcli.engine.networks import LadderNetwork, ladder_networks
from medcli.engine.pictures import read_png
from medcli.engine.plan import FinishedImage
from medcli.engine.sample_folder import SampleFolder
from medcli.engine.sessions import Session
from medcli.errors import ConfigError
from medcli.runtime.precision import warn_if_slow
from medcli.runtime.processes import Processes, launch_remark
from medcli.runtime.reporting import Reporter, Silent
from medcli.settings.sampler import ADAPTIVE_SOLVERS
from medcli.settings.sampling import SampleRequest
from medcli.workflows.sample.settings import SampleSetup

LOOK_S = 1.0
"""Seconds between two looks at what other processes have made."""

# Dimension key: C channels, Y X height and width.

PIXEL_TOLERANCE = {True: 1.0, False: 8.0}
"""Mean difference in levels, in float32 and in other types, of an image that is generated again in another batch."""


@dataclass(frozen=True, slots=True)
class ImageGeneration:
    """One process's share of generating the images of a folder."""

    folder: SampleFolder
    setup: SampleSetup
    request: SampleRequest
    decoder: Decoder
    device: torch.device
    dtype: torch.dtype
    processes: Processes
    reporter: Reporter
    on_smaller_batch: Callable[[int], object] = lambda size: None
    """Called with the batch size if the plan's does not fit the memory."""
    latents: SampledLatents | None = None
    """Takes the final latent of each image."""

    def run(self) -> bool:
        """Generate what is missing; return the answer of `SharedWork.run`."""
        ready: list[tuple[ImageGeneration, tuple[LadderNetwork, ...]]] = []

        def fill() -> None:
            if self.folder.num_missing(self.request.num_images):
                if not ready:
                    ready.append(self._ready())
                generation, networks = ready[0]
                generation._fill(networks)

        return self.folder.work.run(self.request.num_images, fill)

    def _ready(self) -> tuple[ImageGeneration, tuple[LadderNetwork, ...]]:
        """Load the networks and fit the batch size."""
        self._remark()
        networks = self._load_networks()
        fitted = self._fitted(networks)
        # After the search for a batch size: captured calls hold their memory.
        return fitted, tuple(graphed(network, self.device) for network in networks)

    def require_own_pictures(self) -> None:
        """Generate a finished image again and compare it: other weights or another seed leave the same lines.

        Two are tried, since rounding may move a switch step.

        Raises:
            ConfigError: If both are others than those in the folder.
        """
        networks, plan, side_px = self._load_networks(), self.setup.plan, self.setup.config.resolution_px
        size = plan.batch_size if plan.sampler.solver in ADAPTIVE_SOLVERS else 1
        made: dict[int, npt.NDArray[np.uint8]] = {}
        for index in islice(self.folder.done(), 2):
            group = range(index // size * size, (index // size + 1) * size)
            with ImageWriter(self.decoder, lambda image, pixels: made.update({image.index: pixels})) as writer:
                for image in generate(networks, replace(plan, batch_size=size), group, device=self.device):
                    writer.add(image)
            stored = read_png(self.folder.path / file_name(index), side_px)
            if np.abs(made[index].astype(float) - stored).mean() <= PIXEL_TOLERANCE[self.request.dtype == "fp32"]:
                return
        raise ConfigError(
            f"{self.folder.path} has no manifest, and its images are not those of this command",
            hint="choose another --output, or remove that folder",
        )

    def _remark(self) -> None:
        if self.processes.is_first:
            warn_if_slow(self.dtype, self.device, self.reporter)
            solver = self.setup.plan.sampler.solver
            if self.request.steps is not None and solver in ADAPTIVE_SOLVERS:
                # Only a remark: scripts give it to every solver alike.
                self.reporter.note(f"--steps does nothing with --solver {solver}, which chooses its own steps")
            if self.request.time_shift is not None and solver in ADAPTIVE_SOLVERS:
                self.reporter.note(f"--time-shift does nothing with --solver {solver}, which chooses its own steps")
            self._warn_of_untrained()
            if remark := unreachable_moves(self.setup.plan):
                self.reporter.note(remark)
            if remark := launch_remark():
                self.reporter.note(remark)

    def _warn_of_untrained(self) -> None:
        counts = self.setup.plan.schedule.counts
        each = [(network, (count,)) for network, count in zip(self.setup.networks, counts, strict=False)]
        for network, used in each if self.request.stages else [(self.setup.networks[0], counts)]:
            if neutral := neutral_counts(network.opened.records, network.config, used):
                self.reporter.warn(
                    f"the {', '.join(map(str, neutral))} mediators of {network.name} were never trained, so "
                    f"expect poor images; medcli finetune --calibrate fits them"
                )

    def _load_networks(self) -> tuple[LadderNetwork, ...]:
        """Load the weights: one model, or one a ladder index."""
        request, counts = self.request, self.setup.plan.schedule.counts
        models = [
            network.load(device=self.device, dtype=self.dtype, amm=self.setup.amm) for network in self.setup.networks
        ]
        by_count = dict(zip(counts, models, strict=True)) if request.stages else dict.fromkeys(counts, models[0])
        return ladder_networks(by_count, counts, compiled=request.compiled)

    def _fitted(self, networks: tuple[LadderNetwork, ...]) -> ImageGeneration:
        """Return the same generation in batches that fit the memory; images of an earlier run keep their batch size."""
        plan = self.setup.plan
        if self.folder.num_done:
            return self
        size = fitting_batch_size(networks, plan, self.device)
        if size == plan.batch_size:
            return self
        self.reporter.note(f"batches of {plan.batch_size} images do not fit the memory of {self.device}: using {size}")
        self.on_smaller_batch(size)
        return replace(self, setup=replace(self.setup, plan=replace(plan, batch_size=size)))

    def _fill(self, networks: tuple[LadderNetwork, ...]) -> None:
        """Generate images until none is missing that no other process works on."""
        costs = [pass_gmacs(network.config, network.num_mediators) for network in networks]
        start, clock, num_before = time.time(), time.monotonic(), self.folder.num_made
        looked = clock

        def store(image: FinishedImage, pixels_YXC: npt.NDArray[np.uint8]) -> None:
            record = Record(
                index=image.index,
                label=image.label,
                file=file_name(image.index),
                switch_steps=image.switch_steps,
                gmacs=float(f"{image_gmacs(image.passes, costs):.9g}"),
            )
            if self.latents is not None:  # before the line that marks the image as finished
                self.latents.add(image.index, image.latent_CYX)
            self.folder.add(record, pixels_YXC)

        with ImageWriter(self.decoder, store) as writer:
            for image in self._images(networks):
                writer.add(image)
                if self.processes.is_first and self.processes.is_divided and time.monotonic() - looked > LOOK_S:
                    self.folder.read_on()
                    self.reporter.progress(self.folder.num_done, self.request.num_images, "images")
                    looked = time.monotonic()
        if num_made := self.folder.num_made - num_before:
            seconds = round(time.monotonic() - clock, 3)
            self.folder.end_session(Session(images=num_made, seconds=seconds, start=start))

    def _images(self, networks: tuple[LadderNetwork, ...]) -> Iterator[FinishedImage]:
        plan, num_images = self.setup.plan, self.request.num_images
        # An adaptive solver makes a group at a time.
        sizes = (plan.batch_size, 1) if plan.sampler.solver in ADAPTIVE_SOLVERS else (1, plan.batch_size)
        claims = self.folder.work.claims(num_images, *sizes)
        return generate(
            networks,
            plan,
            claims,
            # Slots for more would leave other processes without images.
            max_in_flight=-(-claims.share // plan.batch_size) * plan.batch_size,
            device=self.device,
            # Alone, solver steps can be counted; among others, the folder's images.
            reporter=Silent() if self.processes.is_divided else self.reporter,
        )

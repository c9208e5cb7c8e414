"""Measurements of `tune`, each made once and stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np
import torch

from medcli.data.autoencoder import Decoder, open_decoder
from medcli.data.images import ImageArray
from medcli.engine.batched_rule import num_deciding
from medcli.engine.guidance_phases import step_passes
from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.files import require_space
from medcli.runtime.precision import DTYPES
from medcli.runtime.reporting import Reporter, Silent
from medcli.schedule.spec import DistanceName
from medcli.scores.extractor import POOL
from medcli.settings.scoring import FeatureOptions, ScoreRequest
from medcli.tuning.networks import network_of
from medcli.tuning.recording import Stepper, joined, measure_steps, record_parent
from medcli.tuning.running import run_configuration, squared_errors
from medcli.tuning.space import DENSE, FULL_ATTENTION, Configuration, Layers, NetworkVariant
from medcli.tuning.store import Store, damaged
from medcli.tuning.tables import ChangeTable, Tables
from medcli.workflows.fid.inputs import Side, survey_reference
from medcli.workflows.fid.scoring import Yardstick, load_yardstick, measure
from medcli.workflows.tune.setup import TuneSetup

FLOAT32_BYTES = 4
NUM_PROBED_STEPS = 10
"""Number of steps at which single layers are measured, to rank them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """File of a run."""

    moves: tuple[tuple[int, ...], ...]
    squared_errors: tuple[float, ...] = field(metadata={"min": 0})
    fid: float | None = None
    fid_of: dict[str, Any] | None = None
    """Reference, extractor and protocol of the FID."""

    def misfit(self, configuration: Configuration, num_images: int, num_steps: int) -> str:
        """Return why this can't be a run of a configuration; empty if it can."""
        if not len(self.moves) == len(self.squared_errors) == num_images:
            return f"not of {num_images} images"
        for moves in self.moves:
            is_rising = all(0 <= one <= two < num_steps for one, two in zip((0, *moves), moves, strict=False))
            if not is_rising or len(moves) > len(configuration.rho):
                return "impossible moves"
        return ""


@dataclass(frozen=True, slots=True)
class MeasuredConfiguration:
    """Results of a run of a configuration, by image."""

    configuration: Configuration
    moves: tuple[tuple[int, ...], ...]
    """`switch_steps` of each image."""
    squared_errors: tuple[float, ...]
    """Summed squared difference of each final state from the parent's."""
    fid: float | None
    """FID; None: not requested."""


class Workbench:
    """Measurements of one tuning.

    Args:
        setup: The tuning.
        model: The ladder model, on the device.
        store: Store of the measurements.
        reporter: Notified of progress.

    Raises:
        MedcliError: If FID is requested and its reference, extractor or the autoencoder is missing.
    """

    def __init__(self, setup: TuneSetup, model: DiffusionTransformer, store: Store, reporter: Reporter) -> None:
        self._setup, self._model, self._store, self._reporter = setup, model, store, reporter
        dense = network_of(model, DENSE)
        self.stepper = Stepper.of(setup.plan, dense, setup.device)
        self._scoring: tuple[Decoder, Yardstick] | None = None
        if setup.request.metric == "fid":
            self._scoring = self._open_scoring()

    def layer_errors(self) -> dict[int, float]:
        """Return the root mean square error of a step with mediators in each single layer."""
        setup, every = self._setup, max(1, self.stepper.sampler.num_steps // NUM_PROBED_STEPS)
        variants = [NetworkVariant((layer,), count) for layer in setup.layers for count in setup.counts]
        tables = self._measured(variants, every, "layer probes")
        errors: dict[int, list[float]] = {layer: [] for layer in setup.layers}
        for variant, table in tables.items():
            errors[variant.layers[0]].append(float(np.mean(table.error_KI**2)))
        return {layer: float(np.sqrt(np.mean(own))) for layer, own in errors.items()}

    def tables(self, sets: Iterable[Layers]) -> Tables:
        """Measure what replays of configurations with these sets of layers need."""
        setup, sampler = self._setup, self.stepper.sampler
        variants = [DENSE, *(NetworkVariant(layers, count) for layers in sets for count in setup.counts)]
        return Tables(
            of_variant=self._measured(variants, 1, "step tables"),
            norm_I=np.sqrt(self.energies(setup.numbers)[: len(setup.recorded)]),
            passes_K=step_passes(sampler, setup.plan.guidance).numpy(),
            num_deciding=num_deciding(sampler),
            warmup_steps=setup.plan.schedule.warmup_steps,
            distance=setup.plan.schedule.distance,
        )

    def energies(self, numbers: range) -> list[float]:
        """Return the squared norms of the parent's final states."""
        finals = self._parents(numbers)
        return squared_errors(finals, torch.zeros_like(finals))

    def run(self, configurations: Sequence[Configuration], numbers: range, unit: str) -> list[MeasuredConfiguration]:
        """Run configurations, or read their stored results."""
        outcomes = []
        for done, configuration in enumerate(configurations):
            outcomes.append(self._outcome(configuration, numbers))
            self._reporter.progress(done + 1, len(configurations), unit)
        return outcomes

    def _outcome(self, configuration: Configuration, numbers: range) -> MeasuredConfiguration:
        name = f"runs/{numbers.start}-{numbers.stop}-{configuration.name}.json"
        kept = self._store.record(RunRecord, name)
        if kept is not None and (why := kept.misfit(configuration, len(numbers), self.stepper.sampler.num_steps)):
            raise damaged(self._store.path / name, why)
        if kept is None or (self._scoring and kept.fid_of != self._fid_of()):
            kept = self._run(configuration, numbers)
            self._store.put_json(name, asdict(kept))
        return MeasuredConfiguration(configuration, kept.moves, kept.squared_errors, kept.fid)

    def _run(self, configuration: Configuration, numbers: range) -> RunRecord:
        setup = self._setup
        parents = self._parents(numbers)
        moves: tuple[tuple[int, ...], ...]
        if configuration == FULL_ATTENTION:
            finals, moves = parents, ((),) * len(numbers)
        else:
            made = run_configuration(self._model, configuration, setup.plan, numbers, setup.device, Silent())
            finals, moves = made.latent_ICYX, made.moves
        errors = tuple(squared_errors(finals, parents))
        return RunRecord(moves=moves, squared_errors=errors, fid=self._fid(finals), fid_of=self._fid_of())

    def _parents(self, numbers: range) -> torch.Tensor:
        """Return the (I, C, Y, X) final states under full attention."""
        setup = self._setup

        def make() -> np.ndarray[Any, Any]:
            made = run_configuration(self._model, FULL_ATTENTION, setup.plan, numbers, setup.device, self._reporter)
            return made.latent_ICYX.numpy()

        config, name = setup.config, f"parents/{numbers.start}-{numbers.stop}.npy"
        shape = (len(numbers), config.in_channels, config.latent_size, config.latent_size)
        return torch.from_numpy(self._store.array(name, shape, make))

    def _batches(self) -> list[range]:
        recorded, size = self._setup.recorded, self._setup.plan.batch_size
        return [recorded[start : start + size] for start in range(0, len(recorded), size)]

    def _measured(self, variants: Sequence[NetworkVariant], every: int, unit: str) -> dict[NetworkVariant, ChangeTable]:
        """Return the step table of each variant, measured batch by batch."""
        batches, made = self._batches(), dict[NetworkVariant, ChangeTable]()
        self._require_space()
        for done, variant in enumerate(variants):
            made[variant] = joined([self._table(variant, number, every) for number in range(len(batches))])
            self._reporter.progress(done + 1, len(variants), unit)
        return made

    def _require_space(self) -> None:
        """Check that the disk has room for the states still to be recorded."""
        config, num_states = self._setup.config, self.stepper.sampler.num_steps + 1
        images = sum(
            len(numbers)
            for number, numbers in enumerate(self._batches())
            if not (self._store.path / "parents" / f"states-{number}.npy").exists()
        )
        num_kept = 1 + self.stepper.sampler.num_remembered
        num_bytes = FLOAT32_BYTES * images * num_states * num_kept * config.in_channels * config.latent_size**2
        require_space(self._store.path, num_bytes, "recorded states")

    def _table(self, variant: NetworkVariant, number: int, every: int) -> ChangeTable:
        """Return a variant's table on one batch."""
        numbers = self._batches()[number]

        def make() -> np.ndarray[Any, Any]:
            network, states = network_of(self._model, variant), self._states(number)
            return measure_steps(states, self.stepper, variant, network, numbers, every).values_VKI

        num_steps = len(range(0, self.stepper.sampler.num_steps, every))
        shape = (1 + len(get_args(DistanceName)), num_steps, len(numbers))
        return ChangeTable(self._store.array(f"tables/every-{every}/{variant.name}-{number}.npy", shape, make))

    def _states(self, number: int) -> np.ndarray[Any, Any]:
        """Return all states of a batch under full attention, recorded if they are not."""
        config, numbers = self._setup.config, self._batches()[number]
        sampler = self.stepper.sampler
        channels = (1 + sampler.num_remembered) * config.in_channels
        shape = (sampler.num_steps + 1, len(numbers), channels, *(config.latent_size,) * 2)
        dense = network_of(self._model, DENSE)
        return self._store.mapped(
            f"parents/states-{number}.npy", shape, lambda path: record_parent(path, self.stepper, dense, numbers)
        )

    def _open_scoring(self) -> tuple[Decoder, Yardstick]:
        """Open the decoder, and the extractor and reference of FID."""
        setup = self._setup
        if setup.reference is None:
            raise ConfigError(
                "--metric fid needs a reference, and this checkpoint names none",
                hint="add --reference with a folder, an npz or a bundled name",
            )
        sampling = setup.request.sampling
        decoder = open_decoder(
            setup.config, autoencoder=setup.network.autoencoder, device=setup.device, dtype=DTYPES[sampling.dtype]
        )
        reference = survey_reference(setup.reference)
        samples = (self._store.path, Side(name="samples"))
        request = ScoreRequest(metrics=("fid",), features=FeatureOptions(no_cache=True))
        yardstick = load_yardstick(request, reference, [samples], self._reporter)
        dim = yardstick.extractor.dims[POOL]
        if len(setup.numbers) <= dim:
            self._reporter.note(
                f"warning: {len(setup.numbers)} images are fewer than the {dim} dimensions of the features: FID reads "
                "far too high, and tells little; raise --num-images"
            )
        return decoder, yardstick

    def _fid_of(self) -> dict[str, Any] | None:
        """Return the reference, extractor and protocol of FID, by which kept values are known; None without FID."""
        return None if self._scoring is None else self._scoring[1].protocol

    def _fid(self, latent_ICYX: torch.Tensor) -> float | None:
        """Return the FID of images against the reference; None: not requested."""
        if self._scoring is None:
            return None
        decoder, yardstick = self._scoring
        pictures = []
        for part_BCYX in latent_ICYX.to(self._setup.device).split(decoder.batch_size):
            padding = part_BCYX[:1].expand(decoder.batch_size - len(part_BCYX), -1, -1, -1)
            pictures.append(decoder.decode(torch.cat([part_BCYX, padding]))[: len(part_BCYX)])
        source = ImageArray(name="samples", images_NYXC=torch.cat(pictures))
        report = measure(yardstick, Side(name="samples", source=source), Silent())
        return report.scores.values["fid"]

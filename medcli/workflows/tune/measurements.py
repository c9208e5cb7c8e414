"""Runs of `tune`, each made once and stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from medcli.engine.fine_path import relative_errors
from medcli.engine.plan import SamplingPlan
from medcli.engine.plan_file import PlanFile
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.reporting import Reporter, Silent
from medcli.runtime.timing import clock_for
from medcli.tuning.running import Finals, run_plan
from medcli.tuning.store import Store, damaged
from medcli.workflows.bench.run import machine_name
from medcli.workflows.tune.judging import Judge
from medcli.workflows.tune.setup import TuneSetup

EXACT = "fine.npy"
"""Final states of the exact images: of the fine path, or of full attention at the same steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Circumstances of measured seconds."""

    clock: str
    """`thread_cpu`, `wall` or `wall_synchronised`, see `medcli.runtime.timing`."""
    threads: int
    batch_size: int
    device: str
    machine: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """File of a run."""

    plan_sha256: str
    """Hash of the plan."""
    seconds: float = field(metadata={"min": 0})
    """Seconds of an image."""
    timing: Timing
    errors: tuple[float, ...] | None = field(metadata={"min": 0})
    """Relative distance of each image from the exact one; None if there is none, as for the baseline."""
    fid: float | None = None
    fid_standard_error: float | None = field(default=None, metadata={"min": 0})
    fid_deviations: tuple[float, ...] | None = None
    """Signed parts of the standard error, for paired differences (`Estimate.deviations_G`)."""
    fid_of: dict[str, Any] | None = None
    """Reference, extractor, protocol and autoencoder of the FID."""


class Workbench:
    """Measurements of one tuning.

    Args:
        model: The model, on the device.
        judge: Judges images.
        store: Store of the measurements.
    """

    def __init__(
        self, setup: TuneSetup, model: DiffusionTransformer, judge: Judge, store: Store, reporter: Reporter
    ) -> None:
        self._setup, self._model, self._judge, self._store, self._reporter = setup, model, judge, store, reporter
        threads = torch.get_num_threads()
        self._clock = clock_for(setup.device, threads)
        self.timing = Timing(
            clock=self._clock.name,
            threads=threads,
            batch_size=setup.few.batch_size,
            device=str(setup.device),
            machine=machine_name(setup.device),
        )

    def exact(self) -> torch.Tensor | None:
        """Return the (I, C, Y, X) final states of the exact images; None if there are none."""
        config, numbers, plan = self._setup.config, self._setup.numbers, self._setup.exact
        if plan is None:
            return None
        shape = (len(numbers), config.in_channels, config.latent_size, config.latent_size)
        made = self._store.array(EXACT, shape, lambda: self.finals(plan, numbers, self._reporter).latent_ICYX.numpy())
        return torch.from_numpy(made)

    def finals(self, plan: SamplingPlan, numbers: range, reporter: Reporter | None = None) -> Finals:
        """Run a plan."""
        device = self._setup.device
        return run_plan(self._model, plan, numbers, device=device, clock=self._clock, reporter=reporter or Silent())

    def measured(self, file: PlanFile, *, is_baseline: bool = False) -> RunRecord:
        """Run a plan, or read what an earlier run of it measured.

        Args:
            is_baseline: True: its images are not compared with the exact ones, and unless they are scored one batch
                is run, for its time.
        """
        sha256 = str(file.to_json()["sha256"])
        name, numbers = f"runs/{sha256[:24]}.json", self._setup.numbers
        kept = self._store.record(RunRecord, name)
        if kept is not None and (why := self._misfit(kept, sha256, is_baseline=is_baseline)):
            raise damaged(self._store.path / name, why)
        is_scored = self._judge.metric == "fid"
        if kept is not None and kept.timing == self.timing and not (is_scored and kept.fid_of != self._judge.identity):
            return kept
        if is_baseline and not is_scored:
            numbers = numbers[: self._setup.few.batch_size]
        made = self.finals(self._setup.followed(file), numbers)
        exact = None if is_baseline else self.exact()
        score = self._judge.score(made.latent_ICYX, self._setup.device)
        parts = None if score is None or score.deviations_G is None else tuple(score.deviations_G.tolist())
        record = RunRecord(
            plan_sha256=sha256,
            seconds=made.seconds,
            timing=self.timing,
            errors=None if exact is None else tuple(relative_errors(made.latent_ICYX, exact).tolist()),
            fid=None if score is None else score.value,
            fid_standard_error=None if score is None else score.standard_error,
            fid_deviations=parts,
            fid_of=self._judge.identity,
        )
        self._store.put_json(name, asdict(record))
        return record

    def _misfit(self, kept: RunRecord, sha256: str, *, is_baseline: bool) -> str:
        """Return why this can't be a run of a plan; empty if it can."""
        if kept.plan_sha256 != sha256:
            return "of another plan"
        if (is_baseline or self._setup.exact is None) != (kept.errors is None):
            return "errors and plan do not go together"
        if kept.errors is not None and len(kept.errors) != len(self._setup.numbers):
            return f"not of {len(self._setup.numbers)} images"
        return ""

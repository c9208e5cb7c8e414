"""Find the best pictures for a budget: run every candidate on a few images, report the front, write a plan file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from medcli.charts.figure import save_png
from medcli.cost.macs import GIGA
from medcli.diffusion.steps import build_sampler
from medcli.engine.cost import done_gmacs
from medcli.engine.guidance_phases import num_passes, step_passes
from medcli.engine.pictures import grid_of, write_png
from medcli.engine.plan import SamplingPlan
from medcli.engine.plan_file import PlanFile, plan_file, write_plan
from medcli.errors import EnvironmentProblem
from medcli.model.backbone import DiffusionTransformer
from medcli.network import note_remarks
from medcli.runtime.device import use_device
from medcli.runtime.precision import DTYPES, number_format, products_of
from medcli.runtime.reporting import Reporter
from medcli.runtime.versions import versions
from medcli.schedule.spec import FULL, Schedule
from medcli.settings.analysis import TuneRequest
from medcli.settings.records import given_values, image_values, repeated_command
from medcli.settings.sampling import SampleRequest
from medcli.tuning.candidates import (
    ALWAYS,
    FEWEST_STEPS,
    INTERVALS,
    MOST_CALLS,
    Candidate,
    Interval,
    candidates,
    schedules,
    spread,
)
from medcli.tuning.fit import fitted_rows, record_path
from medcli.tuning.pareto import front
from medcli.tuning.store import Store, damaged
from medcli.workflows.report.result_charts import tuning_chart
from medcli.workflows.tune.judging import Judge, choose_judge, decoded, decoder_of
from medcli.workflows.tune.measurements import RunRecord, Workbench
from medcli.workflows.tune.report import FitReport, Row, TuneReport, choose, difference, is_better
from medcli.workflows.tune.setup import TuneSetup, cost_of, set_up_tuning, steps_to_try

RESULT, PICTURE, PLAN, PICTURES = "tuning.json", "tuning.png", "plan.json", "pictures.png"
NUM_PICTURES = 8
FIT_IMAGES = 32
"""Images fitted to; they follow those that candidates run on."""
FIT_TIMES = 100
"""Calls of the recorded path, from whose times the fit chooses."""


def tune(request: TuneRequest, reporter: Reporter) -> TuneReport:
    """Find the best pictures for a budget.

    What a budget of compute or calls rules out is never run. Candidates run from the cheapest up; each result is
    stored, and the same request goes on where an earlier one ended.

    Raises:
        ConfigError: If the budget can't be met, telling the nearest that can.
        MedcliError: For anything else the user can fix.
    """
    device = use_device(request.sampling.device)
    dtype = number_format(request.sampling.dtype, device)
    request = replace(request, sampling=replace(request.sampling, dtype=dtype))
    setup = set_up_tuning(request, device)
    note_remarks([setup.network], reporter)
    if not setup.counts:
        reporter.note("only full attention is tried" + ("" if request.mediators == () else ": the model has no ladder"))
    is_capped = setup.budget is not None and setup.budget.kind == "calls" and setup.budget.value > MOST_CALLS
    if is_capped and request.sampling.steps is None:
        reporter.note(f"at most {MOST_CALLS} calls are tried: more change the pictures by less than can be told")
    # Guidance in part makes other images, not less exact ones: only a score can tell.
    intervals = INTERVALS if setup.is_guided and request.metric != "error" else (ALWAYS,)
    planned = _planned(setup, intervals)
    with Store(request.output) as store, products_of(dtype):
        store.claim(setup.settings)
        judge = choose_judge(setup, reporter)
        if judge.metric != "fid" and intervals != (ALWAYS,):
            planned = _planned(setup, (ALWAYS,))
        model = setup.network.load(device=device, dtype=DTYPES[dtype])
        return _Tuning(setup, planned, model, judge, store, reporter).report()


def _planned(setup: TuneSetup, intervals: Sequence[Interval]) -> list[Candidate]:
    """List the candidates that the budget allows, the cheapest first.

    Raises:
        ConfigError: If there are none.
    """
    baseline, passes_of, macs_a_pass = baseline_gmacs(setup), setup.passes_of(), setup.macs_a_pass

    def steps_of(schedule: Schedule, interval: Interval) -> list[int]:
        return steps_to_try(setup, baseline, schedule, interval, passes_of)

    made = candidates(setup.counts, intervals, passes_of, steps_of)
    found = sorted(made, key=lambda candidate: candidate.macs(macs_a_pass, passes_of))
    if not found and setup.budget is not None:
        fewest = setup.request.sampling.steps or FEWEST_STEPS
        least = [Candidate(fewest, schedule, intervals[-1]) for schedule in schedules(setup.counts)]
        raise setup.budget.out_of_reach(min(cost_of(setup, candidate, passes_of) for candidate in least), baseline)
    return spread(found, setup.request.finalists)


def baseline_gmacs(setup: TuneSetup) -> float:
    """Return the GMACs of an image of the dense baseline."""
    return num_passes(build_sampler(setup.baseline.sampler), setup.baseline.guidance) * setup.macs_a_pass[0] / GIGA


class _Tuning:
    """One tuning, from runs to the report."""

    def __init__(
        self,
        setup: TuneSetup,
        planned: list[Candidate],
        model: DiffusionTransformer,
        judge: Judge,
        store: Store,
        reporter: Reporter,
    ) -> None:
        self._setup, self._store, self._reporter, self._judge = setup, store, reporter, judge
        self._model = model
        self._planned = planned
        self._bench = Workbench(setup, model, judge, store, reporter)
        self._baseline = baseline_gmacs(setup)
        self._unit = "gmacs" if setup.budget is None else setup.budget.unit

    def report(self) -> TuneReport:
        """Run the candidates, choose, and write plan, report, chart and pictures."""
        setup, metric, output = self._setup, self._judge.metric, self._setup.request.output
        rows = self._rows()
        allowed = [row for row in rows if self._allows(row)]
        if not allowed and setup.budget is not None:
            raise setup.budget.out_of_reach(min(row.cost(self._unit) for row in rows), self._baseline)
        chosen = choose(allowed, metric, is_limited=setup.budget is not None)
        file, fit = self._file(chosen), None
        if setup.request.fit:
            fitted, fit = self._fit(chosen, file)
            if fit.is_kept:
                rows, chosen, file = [*rows, fit.row], fit.row, fitted
        write_plan(output / PLAN, file, force=True)
        baseline_file = plan_file(setup.baseline, setup.config)
        made = TuneReport(
            output=str(output),
            model=setup.network.name,
            budget=self._budget_json(),
            metric=metric,
            reason=self._judge.reason,
            dense=self._row(setup.baseline, baseline_file, self._bench.measured(baseline_file, is_baseline=True)),
            chosen=chosen,
            command=self._plan_command(chosen),
            front=tuple(front(rows, lambda row: row.cost(self._cost), lambda row: row.judged(metric))),
            candidates=tuple(sorted(rows, key=lambda row: row.cost(self._cost))),
            fit=fit,
            plan=str(output / PLAN),
            pictures=self._draw(setup.followed(file)),
            settings=setup.settings,
            timing=self._bench.timing,
            versions=versions(),
        )
        result = made.to_json()
        self._store.put_json(RESULT, result)
        title = f"{made.model}: {len(made.candidates)} runs of {len(setup.numbers)} images"
        save_png(output / PICTURE, tuning_chart(result), title=title)
        return made

    @property
    def _cost(self) -> str:
        """Unit of the front."""
        return "seconds" if self._unit == "seconds" else "gmacs"

    def _allows(self, row: Row) -> bool:
        budget = self._setup.budget
        return budget is None or budget.allows(row.cost(self._unit), self._baseline)

    def _budget_json(self) -> dict[str, Any] | None:
        budget = self._setup.budget
        if budget is None:
            return None
        limit = budget.limit(self._baseline)
        return {"kind": budget.kind, "value": budget.value, "unit": budget.unit, "limit": limit}

    def _rows(self) -> list[Row]:
        """Run the candidates; with a budget of seconds, those of no more calls than one that took longer."""
        rows, slow = [], set[tuple[Schedule, Interval]]()
        self._bench.exact()
        for done, candidate in enumerate(self._planned):
            kind = candidate.schedule, candidate.interval
            if kind not in slow:
                plan = self._setup.plan_of(candidate)
                file = self._setup.file_of(plan)
                rows.append(self._row(plan, file, self._bench.measured(file)))
                if self._unit == "seconds" and not self._allows(rows[-1]):
                    slow.add(kind)
            self._reporter.progress(done + 1, len(self._planned), "candidates")
        return rows

    def _row(self, plan: SamplingPlan, file: PlanFile, record: RunRecord, *, is_fitted: bool = False) -> Row:
        """Put a run's costs and errors together."""
        setup = self._setup
        sampler = build_sampler(plan.sampler, rows=plan.rows)
        passes = step_passes(sampler, plan.guidance).tolist()
        networks = plan.schedule.networks(sampler.num_steps)
        macs, pairs = setup.macs_a_pass, list(zip(passes, networks, strict=True))
        gmacs = sum(number * macs[count] for number, count in pairs) / GIGA
        interval = plan.guidance.interval if plan.guidance.is_partial else None
        row = Row(
            steps=plan.sampler.steps,
            calls=sampler.nfe,
            schedule=plan.schedule,
            networks=networks,
            interval=interval,
            gmacs=gmacs,
            gmacs_done=sum(number * done_gmacs(setup.config, count) for number, count in pairs),
            saving=1 - gmacs / self._baseline,
            seconds=record.seconds,
            errors=record.errors,
            fid=record.fid if self._judge.metric == "fid" else None,
            fid_standard_error=record.fid_standard_error,
            fid_deviations=record.fid_deviations,
            plan_sha256=record.plan_sha256,
            is_fitted=is_fitted,
        )
        return row if is_fitted else replace(row, command=self._flag_command(plan, row))

    def _file(self, row: Row) -> PlanFile:
        """Return the plan file of a candidate's row."""
        candidate = Candidate(row.steps, row.schedule, row.interval or ALWAYS)
        return self._setup.file_of(self._setup.plan_of(candidate))

    def _fit(self, chosen: Row, file: PlanFile) -> tuple[PlanFile, FitReport]:
        """Fit the choice's times and weights, and compare both on the candidates' images, unseen by the fit."""
        setup, metric, first = self._setup, self._judge.metric, self._setup.numbers.stop
        name = f"fits/{chosen.plan_sha256[:24]}.json"
        fitted = self._store.record(PlanFile, name)
        if fitted is not None and fitted.sha256 != fitted.to_json()["sha256"]:
            raise damaged(self._store.path / name, "its hash is another one")
        if fitted is None:
            numbers, plan = range(first, first + FIT_IMAGES), setup.followed(file)
            fine = setup.plan_of(Candidate(FIT_TIMES, FULL))
            path = record_path(self._model, fine, numbers, setup.device, self._reporter)
            rows = fitted_rows(self._model, plan, path, numbers, setup.device, self._reporter)
            fitted = setup.file_of(replace(plan, rows=rows))
            self._store.put_json(name, fitted.to_json())
        row = self._row(setup.followed(fitted), fitted, self._bench.measured(fitted), is_fitted=True)
        value, error = difference(row, chosen, metric)
        return fitted, FitReport(
            row=row,
            is_kept=is_better(row, chosen, metric) and self._allows(row),
            difference=value,
            difference_standard_error=error,
            num_images=FIT_IMAGES,
        )

    def _flag_command(self, plan: SamplingPlan, row: Row) -> str:
        """Return the command that samples a plan's images by flags."""
        guidance = self._setup.settings["guidance"]
        if guidance is not None and row.interval is not None:
            guidance = {**guidance, "interval": list(row.interval)}
        parts = {"schedule": plan.schedule.to_json(), "sampler": plan.sampler.to_json(), "guidance": guidance}
        given = given_values(self._setup.request.sampling)
        name = f"{row.calls}-calls-{row.plan_sha256[:8]}"
        return self._command(image_values({**self._setup.settings, **parts}, given), name)

    def _plan_command(self, row: Row) -> str:
        """Return the command that samples the choice's images by its plan file."""
        request = replace(self._setup.request.sampling, plan=self._setup.request.output / PLAN)
        return self._command(image_values(self._setup.settings, given_values(request)), f"plan-{row.plan_sha256[:8]}")

    def _command(self, values: Mapping[str, Any], name: str) -> str:
        sampling, output = self._setup.request.sampling, self._setup.request.output
        machine = {"batch_size": sampling.batch_size, "device": sampling.device}
        given = {key: value for key, value in machine.items() if value is not None}
        ends = {**given, "num_images": sampling.num_images, "output": str(output / "samples" / name)}
        first = {key: values[key] for key in ("checkpoint", "plan") if key in values}
        return repeated_command("sample", SampleRequest, {**first, **values, **ends})

    def _draw(self, plan: SamplingPlan) -> str | None:
        """Draw the exact pictures, if any, above those of the choice; None if there is no autoencoder here."""
        setup, file = self._setup, self._setup.request.output / PICTURES
        shown = setup.numbers[:NUM_PICTURES]
        try:
            decoder = self._judge.decoder or decoder_of(setup)
        except EnvironmentProblem as err:
            self._reporter.note(f"no pictures: {err.message}")
            return None
        rows, exact = [self._bench.finals(plan, shown).latent_ICYX], self._bench.exact()
        if exact is not None:
            rows.insert(0, exact[: len(shown)])
        pictures = decoded(decoder, torch.cat(rows), setup.device)
        write_png(file, grid_of([picture.numpy() for picture in pictures], len(shown)))
        return str(file)

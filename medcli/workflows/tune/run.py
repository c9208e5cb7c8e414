"""Choose layers, ladder and thresholds for a budget: replay many configurations, run a few, report the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import correlation
from typing import Any

import torch

from medcli.charts.figure import save_png
from medcli.diffusion.steps import build_sampler
from medcli.engine.guidance_phases import step_passes
from medcli.model.backbone import DiffusionTransformer
from medcli.network import changed, note_remarks, open_network
from medcli.runtime.device import pick_device
from medcli.runtime.reporting import Reporter, Silent
from medcli.runtime.versions import versions
from medcli.settings.analysis import TuneRequest
from medcli.settings.checkpoints import ConvertRequest
from medcli.settings.network import NetworkSource, format_layers
from medcli.tuning.pareto import best_within, front
from medcli.tuning.running import cost_of_moves, relative_error
from medcli.tuning.search import Proposal, finalists
from medcli.tuning.space import (
    DENSE,
    FULL_ATTENTION,
    Configuration,
    NetworkVariant,
    configurations,
    layer_sets,
)
from medcli.tuning.store import Store
from medcli.tuning.tables import Tables
from medcli.workflows.convert import write_network
from medcli.workflows.report.result_charts import tuning_chart
from medcli.workflows.tune.commands import convert_command, converted_file, sample_command
from medcli.workflows.tune.costs import Costs, costs_of
from medcli.workflows.tune.measurements import MeasuredConfiguration, Workbench
from medcli.workflows.tune.report import Candidate, TuneReport
from medcli.workflows.tune.setup import TuneSetup, load_ladder, set_up_tuning

RESULT = "tuning.json"
PICTURE = "tuning.png"


def tune(request: TuneRequest, reporter: Reporter) -> TuneReport:
    """Find the configuration of least error within a budget.

    Costs and the budget are checked first. The parent's trajectories are recorded once and every network is measured on
    them; thousands of configurations are replayed on these tables; the most promising are run and reported.

    Raises:
        ConfigError: If the budget can't be met, telling what can.
        MedcliError: For anything else the user can fix; what has been measured stays, and the same request goes on.
    """
    device = pick_device(request.sampling.device)
    setup = set_up_tuning(request, device)
    note_remarks([setup.network], reporter)
    if setup.budget.unit == "gmacs":
        _check_budget(setup, Costs(config=setup.config))
    with Store(request.output) as store:
        store.claim(setup.settings)
        model = load_ladder(setup, reporter)
        return _Tuning(setup, model, store, reporter).report()


def _check_budget(setup: TuneSetup, costs: Costs) -> None:
    """Refuse a budget that cannot be met, or that full attention meets."""
    everywhere = [NetworkVariant(setup.layers, count) for count in setup.counts]
    table = costs.table([DENSE, *everywhere], setup.budget.unit)
    passes = int(step_passes_of(setup).sum())
    setup.budget.check(passes * min(table.values()), passes * table[DENSE])


def step_passes_of(setup: TuneSetup) -> torch.Tensor:
    """Return the (K,) forward passes of each solver step."""
    return step_passes(build_sampler(setup.plan.sampler), setup.plan.guidance)


class _Tuning:
    """One tuning, from replays to the report."""

    def __init__(self, setup: TuneSetup, model: DiffusionTransformer, store: Store, reporter: Reporter) -> None:
        self._setup, self._store, self._reporter = setup, store, reporter
        self._request, self._budget = setup.request, setup.budget
        self._costs = costs_of(setup, model, store)
        _check_budget(setup, self._costs)
        self._passes_K = step_passes_of(setup)
        self._bench = Workbench(setup, model, store, reporter)
        dense = self._costs.table([DENSE], self._budget.unit)[DENSE] * int(self._passes_K.sum())
        self._limit, self._tolerant = self._budget.limit(dense), self._budget.tolerant_limit(dense)

    def report(self) -> TuneReport:
        """Measure, choose, and write the report and its chart."""
        order = self._layer_order()
        tables = self._bench.tables(layer_sets([layer for layer, _, _ in order]))
        proposals = self._proposals(tables, [layer for layer, _, _ in order])
        candidates = self._run(finalists(proposals, self._request.num_finalists, self._tolerant))
        metric = self._request.metric

        def judged(candidate: Candidate) -> float:
            return candidate.judged(metric)

        chosen = best_within(candidates, self._tolerant, lambda one: one.cost, judged)
        assert chosen is not None  # the cheapest static configuration is always run, and the budget allows it
        made = TuneReport(
            output=str(self._request.output),
            model=self._setup.source.name,
            budget=self._budget_json(),
            metric=metric,
            dense=next(one for one in candidates if one.configuration == FULL_ATTENTION),
            chosen=chosen,
            front=tuple(front(candidates, lambda one: one.cost, judged)),
            candidates=tuple(sorted(candidates, key=lambda one: (one.cost, one.configuration))),
            num_replayed=len(proposals),
            rank_correlation=rank_correlation(candidates),
            layer_order=tuple(order),
            settings=self._setup.settings,
            timing=asdict(self._costs.times) if self._costs.times else None,
            versions=versions(),
        )
        self._write(made)
        return made

    def _budget_json(self) -> dict[str, Any]:
        budget = self._budget
        return {"kind": budget.kind, "value": budget.value, "unit": budget.unit, "limit": self._limit}

    def _layer_order(self) -> list[tuple[int, float, float]]:
        """Rank the layers by error per saving: layer, error, percent that its cheapest count saves."""
        errors = self._bench.layer_errors()
        dense = self._costs.gmacs(DENSE)
        rows = []
        for layer, error in errors.items():
            spent = [self._costs.gmacs(NetworkVariant((layer,), count)) for count in self._setup.counts]
            rows.append((layer, error, 100 * (1 - min(spent) / dense)))
        return sorted(rows, key=lambda row: (row[1] / row[2] if row[2] > 0 else float("inf"), row[0]))

    def _proposals(self, tables: Tables, order: Sequence[int]) -> list[Proposal]:
        is_dynamic = self._setup.plan.sampler.has_even_steps  # else the dynamic rule can't read the distances
        made = configurations(
            layer_sets(order), self._setup.counts, tables.thresholds if is_dynamic else lambda variant: ()
        )
        return [self._proposal(tables, one) for one in made]

    def _proposal(self, tables: Tables, one: Configuration) -> Proposal:
        """Replay a configuration."""
        costs_I = tables.costs_of(one, self._costs.table(one.variants, self._budget.unit))
        return Proposal(configuration=one, cost=float(costs_I.mean()), error=tables.error_of(one))

    def _run(self, chosen: Sequence[Proposal]) -> list[Candidate]:
        outcomes = self._bench.run([one.configuration for one in chosen], self._setup.numbers, "runs")
        return [
            self._candidate(outcome, self._setup.numbers, proposal.error)
            for proposal, outcome in zip(chosen, outcomes, strict=True)
        ]

    def _candidate(self, outcome: MeasuredConfiguration, numbers: range, expected: float | None) -> Candidate:
        configuration, moves = outcome.configuration, outcome.moves

        def cost(unit: str) -> tuple[float, float]:
            table = self._costs.table(configuration.variants, unit)
            return cost_of_moves(configuration, moves, self._passes_K, table)

        error, deviation = relative_error(outcome.squared_errors, self._bench.energies(numbers))
        mean, spread = cost(self._budget.unit)
        return Candidate(
            configuration=configuration,
            cost=mean,
            cost_standard_error=spread,
            gmacs=cost("gmacs")[0],
            gmacs_done=cost("done")[0],
            ms=cost("ms")[0] if self._budget.unit == "ms" else None,
            error=error,
            error_standard_error=deviation,
            fid=outcome.fid,
            expected_error=expected,
            convert_command=convert_command(self._setup, configuration.layers),
            command=sample_command(self._setup, configuration),
        )

    def _write(self, made: TuneReport) -> None:
        """Write the checkpoint of the choice, the report and its chart."""
        layers, output = made.chosen.configuration.layers, self._request.output
        if (file := converted_file(self._setup, layers)) and not file.exists():
            source = NetworkSource(checkpoint=self._setup.ladder_file, layers=format_layers(layers))
            ladder = open_network(source) if self._setup.is_dense else changed(self._setup.network, source)
            write_network(ladder, ConvertRequest(network=source, output=file, digest=False), Silent())
        result = made.to_json()
        self._store.put_json(RESULT, result)
        title = f"{made.model}: {len(made.candidates)} runs of {made.settings['num_images']} images"
        save_png(output / PICTURE, tuning_chart(result), title=title)


def rank_correlation(candidates: Sequence[Candidate]) -> float | None:
    """Spearman correlation of replayed and measured errors, full attention excluded; None for fewer than three."""
    pairs = [(one.expected_error, one.error) for one in candidates if one.expected_error and one.error]
    if len(pairs) < 3:
        return None
    promised, measured = (_ranks(column) for column in zip(*pairs, strict=True))
    return correlation(promised, measured)


def _ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value; equal values in the order given."""
    order = sorted(range(len(values)), key=values.__getitem__)
    return [float(place) for place in sorted(range(len(values)), key=order.__getitem__)]

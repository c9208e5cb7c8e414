"""Sentences a page opens with: what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from medcli.runtime.text import macs_text, measured
from medcli.scores.protocol import compared, differences
from medcli.settings.sampler import PAPER_STEPS
from medcli.workflows.fid.compare import CompareReport, with_numbers
from medcli.workflows.report.json_access import Json, as_list, join, look_up, number, text
from medcli.workflows.report.result_charts import plan_text
from medcli.workflows.report.runs import SampledRun
from medcli.workflows.report.scores import error_of, run_by_path, run_of

MOST_NAMED = 3
"""Names listed in one sentence."""


def opening(runs: Sequence[SampledRun], scores: Sequence[Json], findings: Sequence[tuple[str, Json]]) -> list[str]:
    """Return what runs, scores and files of `analyze` and `tune` show, a sentence each, the most important first."""
    said = [*_best(runs, scores), *_cheapest(runs), *_moves(runs)]
    for name, found in findings:
        if found.get("kind") == "medcli-tuning" and isinstance(chosen := found.get("chosen"), dict):
            saved = number(chosen.get("saving_percent"))
            cost = "" if saved is None else f", which saves {saved:.1f} % of {PAPER_STEPS} dense steps"
            said.append(f"{name}: the choice is {plan_text(chosen)}{cost}.")
        if found.get("kind") == "medcli-analysis":
            layers, counts = (as_list(look_up(found, "suggestion", key)) for key in ("layers", "mediators"))
            advice = f"mediators {join(counts)} in layers {join(layers)}" if layers else "no mediators"
            reason = text(look_up(found, "suggestion", "reason"), "")
            said += [f"{name} suggests {advice}: {reason}".rstrip(".") + "."] if reason else []
    unscored = _unscored(runs, scores)
    if unscored:
        said.append(f"Not scored: {unscored}; medcli fid keeps scores in the folder, and this page then shows them.")
    return said


def _best(runs: Sequence[SampledRun], scores: Sequence[Json]) -> Iterator[str]:
    """Name the best FID and its cost, and the sets that can't be told from it."""
    rows = [dict(with_numbers(row)) for row in scores]
    report = CompareReport(rows=tuple(rows), differences=())
    best = report.best("fid")
    if best is None:
        return
    row = rows[best]
    value = measured(row["fid"], error_of(row, "fid"))
    run = run_of(row, run_by_path(runs))
    gmacs = run.total("gmacs_per_image") if run else None
    cost = "" if gmacs is None else f" at {macs_text(gmacs)} multiply-adds an image"
    if len(rows) == 1:
        yield f"FID of {row['samples']}: {value}{cost}, against {text(row.get('reference'))}."
        return
    if differences({f"{one['samples']} ({place})": compared(one) for place, one in enumerate(rows)}):
        yield "The scores rest on different protocols and do not compare."
        return
    near = [one["samples"] for place, one in enumerate(rows) if report.is_near_best("fid", place)]
    yield f"Best FID: {row['samples']}, {value}{cost}" + (f"; within its error: {_named(near)}." if near else ".")


def _cheapest(runs: Sequence[SampledRun]) -> Iterator[str]:
    """Name the run of fewest multiply-adds, and how many fewer than the papers' it makes."""
    known = [(gmacs, run) for run in runs if (gmacs := run.total("gmacs_per_image"))]
    if not known:
        return
    gmacs, run = min(known, key=lambda pair: pair[0])
    saved = run.saved_percent
    word = "fewer" if (saved or 0) > 0 else "more"
    parts = [] if saved is None else [f"{abs(saved):.1f} % {word} than full attention in the same steps"]
    if run.papers_gmacs and run.papers_gmacs > 1.05 * gmacs:
        parts.append(f"{run.papers_gmacs / gmacs:.3g} times fewer than in {PAPER_STEPS} dense steps")
    name = f"{run.name} costs" if len(runs) == 1 else f"The cheapest run, {run.name}, costs"
    yield f"{name} {macs_text(gmacs)} multiply-adds an image{', ' if parts else ''}{', '.join(parts)}."


def _moves(runs: Sequence[SampledRun]) -> Iterator[str]:
    """Name ladder entries that no image of a run reached."""
    for run in runs:
        for place, (_, after) in enumerate(pairwise(run.run.schedule.counts), 1):
            if run.num_steps and run.num_images and not run.moves_to(place):
                yield f"In {run.name} no image ever reached {f'{after} mediators' if after else 'full attention'}."
                break


def _unscored(runs: Sequence[SampledRun], scores: Sequence[Json]) -> str:
    by_path = run_by_path(runs)
    scored = {run.name for row in scores if (run := run_of(row, by_path))}
    return _named([run.name for run in runs if run.name not in scored])


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(map(str, names[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")


def title_of(runs: Sequence[SampledRun], scores: Sequence[Json], findings: Sequence[tuple[str, Json]]) -> str:
    """Return the heading of a page: the first thing on it, and the number of others."""
    names = [Path(run.name).name for run in runs] or [row["samples"] for row in scores]
    names = names or [Path(name).parent.name or name for name, _ in findings]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"

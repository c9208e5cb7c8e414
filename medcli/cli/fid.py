"""`medcli fid`."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.cli.command import Command
from medcli.cli.output import Output, printable
from medcli.cli.table import table_of
from medcli.cli.text import sign
from medcli.runtime.text import measured
from medcli.settings.scoring import FidRequest

if TYPE_CHECKING:
    from medcli.cli.table import FittedTable
    from medcli.workflows.fid.compare import CompareReport
    from medcli.workflows.fid.scoring import FidReport

EXACT = "precision and recall in exact arithmetic; on ImageNet ADM's float16 reads about 0.001 and 0.002 higher"
ERRORS = "errors: standard errors over draws of the samples, the reference held fixed"


def fid(request: FidRequest, out: Output) -> None:
    """Run `medcli fid`."""
    from medcli.workflows.fid.compare import CompareReport
    from medcli.workflows.fid.inputs import SAMPLES_ROOT
    from medcli.workflows.fid.kept import SCORES
    from medcli.workflows.fid.reference import ReferenceReport
    from medcli.workflows.fid.run import fid as run
    from medcli.workflows.fid.train_extractor import ExtractorReport

    report = run(request, out)
    if isinstance(report, ReferenceReport):
        written = f"wrote {report.output}: {', '.join(report.keys)} of {report.num_images} images, {report.extractor}"
        out.result(report, written)
        out.hint(f"medcli fid SAMPLES {shlex.quote(report.output)}")
    elif isinstance(report, ExtractorReport):
        right = f"{report.held_out_accuracy:.1%} of {report.num_held_out:,} held-out images right"
        out.result(report, f"wrote {report.output}: {report.num_classes} classes, {right}")
        out.hint(f"medcli fid SAMPLES REFERENCE --extractor {shlex.quote(report.output)}")
    elif isinstance(report, CompareReport):
        out.result(report, markdown(report.rows) if request.markdown else comparison_table(report))
    elif report is not None:
        out.result(report, markdown([report.to_json()]) if request.markdown else score_table(report))
        if (Path(report.samples) / SCORES).is_file():
            is_default = Path(report.samples).parent == SAMPLES_ROOT
            out.hint("medcli report" + ("" if is_default else f" {shlex.quote(report.samples)}"))


COMMAND = Command(
    request=FidRequest,
    run=fid,
    examples=(
        "medcli fid",
        "medcli fid samples.npz imagenet256.npz --extractor-weights inception.pth",
        "medcli fid --compare samples/a samples/b earlier.json",
    ),
)


def score_table(report: FidReport) -> FittedTable:
    """Build the table of one set's scores, with their inputs below."""
    from medcli.workflows.fid.compare import LOWER_IS_BETTER, title_of

    row, errors = report.to_json(), report.scores.errors
    rows = [
        (title_of(name), _cell(row, name), "lower" if name in LOWER_IS_BETTER else "higher")
        for name in report.scores.values
    ]
    remarks = [
        f"samples: {report.samples} ({_size(report.num_samples)})",
        f"reference: {report.reference} ({_size(report.num_reference)})",
        f"features: {report.extractor}" + ("" if report.extractor == "inception" else ", not the published scale"),
        *(f"no {name}: {why}" for name, why in report.scores.unavailable.items()),
        *([ERRORS] if errors else []),
        *_exactness(report.scores.values, {report.extractor}),
    ]
    return table_of(
        ("metric", "value" if not errors else f"value {sign('±', '+-')} error", "better"),
        rows,
        caption="\n".join(map(printable, remarks)),
    )


def comparison_table(report: CompareReport) -> FittedTable:
    """Build the table of several sets; marks the best of each metric and those within its error."""
    metrics = _shown(report.rows)
    cells = [
        [row["samples"], row["num_samples"], *(_marked(report, metric, place) for metric in metrics)]
        for place, row in enumerate(report.rows)
    ]
    references = sorted({row["reference"] for row in report.rows})
    known = [noise for noise in report.noises if noise is not None]
    paired = ", paired where noise and labels are the same" if len(set(known)) < len(known) else ""
    remarks = [
        f"* best, ~ within two standard errors of it{paired}",
        f"reference: {', '.join(references)}",
        f"features: {', '.join(sorted({row['extractor'] for row in report.rows}))}",
        ERRORS,
        *_exactness(metrics, {row["extractor"] for row in report.rows}),
        *(f"not comparable: {difference}" for difference in report.differences),
    ]
    headings = ("samples", "N", *map(_heading, metrics))
    return table_of(headings, cells, caption="\n".join(map(printable, remarks)))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Write a Markdown table with a row per set."""
    metrics = _shown(rows)
    headings = ["samples", "N", *map(_heading, metrics)]
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    lines += [
        [row["samples"].replace("|", "\\|"), _size_cell(row), *(_cell(row, metric) for metric in metrics)]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(map(printable, line))} |" for line in lines)


def _shown(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the metrics that at least one row has."""
    from medcli.workflows.fid.compare import SHOWN
    from medcli.workflows.fid.scoring import json_key

    return [metric for metric in SHOWN if any(row.get(json_key(metric)) is not None for row in rows)]


def _marked(report: CompareReport, metric: str, place: int) -> str:
    mark = "*" if report.best(metric) == place else "~" if report.is_near_best(metric, place) else ""
    return f"{_cell(report.rows[place], metric)} {mark}".rstrip()


def _cell(row: dict[str, Any], metric: str) -> str:
    """Format `value +- error`, or a dash."""
    from medcli.workflows.fid.scoring import json_key

    value, error = row.get(json_key(metric)), row.get("standard_errors", {}).get(json_key(metric))
    if value is None:
        return "-"
    return measured(value, error, sign("±", "+-"))


def _heading(metric: str) -> str:
    from medcli.workflows.fid.compare import title_of

    return f"{title_of(metric)} {_arrow(metric)}"


def _arrow(metric: str) -> str:
    from medcli.workflows.fid.compare import LOWER_IS_BETTER

    return sign("↓", "(lower)") if metric in LOWER_IS_BETTER else sign("↑", "(higher)")


def _exactness(metrics: Collection[str], extractors: Collection[str]) -> list[str]:
    """Return the remark on published precision and recall, which are of Inception's features."""
    from medcli.scores.extractor import INCEPTION

    return [EXACT] if INCEPTION in extractors and {"precision", "recall"} & set(metrics) else []


def _size_cell(row: dict[str, Any]) -> str:
    return "-" if row["num_samples"] is None else str(row["num_samples"])


def _size(num_images: int | None) -> str:
    return "statistics" if num_images is None else f"{num_images:,} images"

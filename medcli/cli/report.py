"""`medcli report`: one page of pictures and plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.runtime.text import scaled
from medcli.settings.pages import ReportRequest

if TYPE_CHECKING:
    from medcli.workflows.report.run import PageReport


def report(request: ReportRequest, out: Output) -> None:
    """Run `medcli report`."""
    from medcli.workflows.report.run import report as run

    page = run(request, out)
    out.result(page, summary(page))


COMMAND = Command(
    request=ReportRequest,
    run=report,
    details="The page is self-contained: no scripts, nothing loaded. Inputs are recognised by their contents;\n"
    "scores kept in sample folders are included. The same command again updates the page.",
    examples=(
        "medcli report",
        "medcli report samples/a samples/b scores.json -o page.html",
        "medcli report samples/a analysis/fashion-sit-0 tuning",
    ),
)


def summary(page: PageReport) -> str:
    """Describe the page, and repeat the sentences it opens with."""
    size = f"{page.lead.rstrip('.')}; {scaled(page.num_bytes, '.0f')}B, for any browser"
    return "\n".join((f"wrote {page.output}", size, *page.opening))

"""`medcli report`: one page of pictures and plots."""

from __future__ import annotations

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.settings.pages import ReportRequest


def report(request: ReportRequest, out: Output) -> None:
    """Run `medcli report`."""
    from medcli.workflows.report.run import report as run

    out.result(run(request, out))


COMMAND = Command(
    request=ReportRequest,
    run=report,
    details="The page is self-contained: no scripts, nothing loaded. Inputs are recognised by their contents.",
    examples=(
        "medcli report",
        "medcli report samples/a samples/b scores.json -o page.html",
        "medcli report samples/a analysis/digits-sit-0 tuning",
    ),
)

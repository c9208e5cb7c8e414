"""`medcli doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output, printable
from medcli.cli.table import table_of
from medcli.cli.text import WHOLE, Prose
from medcli.settings.pages import DoctorRequest

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.workflows.doctor.finding import Finding
    from medcli.workflows.doctor.run import DoctorReport


def doctor(_request: DoctorRequest, out: Output) -> None:
    """Run `medcli doctor`."""
    from medcli.workflows.doctor.run import examine

    report = examine()
    out.result(report, summary(report))


COMMAND = Command(
    request=DoctorRequest,
    run=doctor,
    details="Nothing is written and no network is used. Whatever is missing, the exit code is 0.",
    examples=("medcli doctor", "medcli doctor --json"),
)


def summary(report: DoctorReport) -> Group:
    """Build the table of findings, and below it what is missing, with the remedy."""
    from rich.console import Group

    rows = [(finding.name, finding.status, finding.found) for finding in report.findings]
    lacks = [Prose(_advice(finding)) for finding in report.findings if finding.status != "ok"]
    verdict = "nothing is missing" if not report.missing else f"missing: {len(report.missing)}"
    return Group(table_of(("", "status", "found"), rows), *lacks, Prose(verdict))


def _advice(finding: Finding) -> str:
    """Describe the loss, and the remedy; one that begins with a command has a line of its own, which is not wrapped."""
    loss = f"{finding.name}: {'disables' if finding.status == 'missing' else 'costs'} {finding.disables}"
    if not finding.remedy:
        return printable(loss)
    return printable(loss) + ("\n  " if WHOLE.match(finding.remedy) else "; ") + printable(finding.remedy)

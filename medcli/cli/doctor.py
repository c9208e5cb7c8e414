"""`medcli doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from medcli.cli.output import output_of, printable, table_of

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.workflows.doctor.finding import Finding
    from medcli.workflows.doctor.run import DoctorReport


def doctor(ctx: typer.Context) -> None:
    """Say what works on this machine, and what each missing thing disables.

    Nothing is written and no network is used. What it finds is no error: the exit code is 0.

    Examples:
        medcli doctor
        medcli doctor --json
    """
    from medcli.workflows.doctor.run import examine

    report = examine()
    output_of(ctx).result(report, summary(report))


def summary(report: DoctorReport) -> Group:
    """What there is, and below it what is not, with the way out."""
    from rich.console import Group
    from rich.text import Text

    rows = [(finding.name, finding.status, finding.found) for finding in report.findings]
    lacks = [Text(_advice(finding)) for finding in report.findings if finding.status != "ok"]
    verdict = "nothing is missing" if not report.missing else f"missing: {len(report.missing)}"
    return Group(table_of(("", "status", "found"), rows), *lacks, Text(verdict))


def _advice(finding: Finding) -> str:
    """What is lost, and the way out."""
    loss = f"{finding.name}: {'disables' if finding.status == 'missing' else 'costs'} {finding.disables}"
    return printable(loss + (f"; {finding.remedy}" if finding.remedy else ""))

"""`medcli merge`."""

from __future__ import annotations

import shlex

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.settings.merging import MergeRequest


def merge(request: MergeRequest, out: Output) -> None:
    """Run `medcli merge`."""
    from medcli.cli.sample import summary
    from medcli.workflows.merge import merge as run

    report = run(request, out)
    out.result(report, summary(report))
    out.hint(f"medcli fid {shlex.quote(report.output)}")


COMMAND = Command(
    request=MergeRequest,
    run=merge,
    details="Pictures are copied, and the inputs stay as they are. Missing images are made by the sample command.",
    examples=("medcli merge part-1 part-2 -o whole", "medcli merge part-* -o whole --npz"),
)

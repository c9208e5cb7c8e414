"""`medcli inspect`."""

from __future__ import annotations

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.cli.table import details_of
from medcli.errors import listed
from medcli.settings.checkpoints import InspectRequest

SHOWN_NAMES = 5
"""Class names shown to people; `--json` has all."""


def inspect(request: InspectRequest, out: Output) -> None:
    """Run `medcli inspect`."""
    from medcli.workflows.inspect import inspect as run

    report = run(request.network)
    values = report.to_json()
    if "class_names" in values:
        values["class_names"] = listed(values["class_names"], SHOWN_NAMES)
    out.result(report, details_of(values))


COMMAND = Command(
    request=InspectRequest,
    run=inspect,
    details="No weights are read and nothing in the file is run.",
    examples=("medcli inspect sit_xl.pt", "medcli inspect 0400000.pt --json"),
)

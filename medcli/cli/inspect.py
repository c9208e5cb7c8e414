"""`medcli inspect`."""

from __future__ import annotations

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.settings.checkpoints import InspectRequest


def inspect(request: InspectRequest, out: Output) -> None:
    """Run `medcli inspect`."""
    from medcli.workflows.inspect import inspect as run

    out.result(run(request.network))


COMMAND = Command(
    request=InspectRequest,
    run=inspect,
    details="No weights are read and nothing in the file is run.",
    examples=("medcli inspect sit_xl.pt", "medcli inspect 0400000.pt --json"),
)

"""`medcli inspect`."""

from __future__ import annotations

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.cli.table import details_of
from medcli.errors import listed
from medcli.ladder import ranges
from medcli.runtime.text import count_text, macs_text
from medcli.settings.checkpoints import InspectRequest

SHOWN_NAMES = 5
"""Class names shown to people; `--json` has all."""
NAMES = {"num_params": "parameters", "resolution_px": "resolution (px)", "num_heads": "heads", "num_classes": "classes"}
"""Names for people of keys that read otherwise."""
FIRST = ("family", "preset", "layout")
"""Keys that people see first."""


def inspect(request: InspectRequest, out: Output) -> None:
    """Run `medcli inspect`."""
    from medcli.workflows.inspect import inspect as run

    report = run(request.network)
    values = report.to_json()
    values = {**{key: values[key] for key in FIRST}, **values}
    if "class_names" in values:
        values["class_names"] = listed(values["class_names"], SHOWN_NAMES)
    values["mediator_layers"] = ranges(values["mediator_layers"])
    values["num_params"] = count_text(values["num_params"])
    values["MACs"] = macs_text(values.pop("gmacs"))
    out.result(report, details_of({NAMES.get(key, key): value for key, value in values.items()}))


COMMAND = Command(
    request=InspectRequest,
    run=inspect,
    details="No weights are read and nothing in the file is run.",
    examples=("medcli inspect sit_xl.pt", "medcli inspect 0400000.pt --json"),
)

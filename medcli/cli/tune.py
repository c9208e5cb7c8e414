"""`medcli tune`."""

from __future__ import annotations

from pathlib import Path

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.settings.analysis import TuneRequest


def tune(request: TuneRequest, out: Output) -> None:
    """Run `medcli tune`."""
    from medcli.cli.tune_table import summary
    from medcli.workflows.tune.run import tune as run

    report = run(request, out)
    out.result(report, summary(report))
    drawn = [Path(report.output) / "tuning.png", *([report.pictures] if report.pictures else [])]
    out.hint(f"see {' and '.join(map(str, drawn))}")


COMMAND = Command(
    request=TuneRequest,
    run=tune,
    details="Runs network calls x networks by progress (x guidance intervals, where a score decides) on a few images\n"
    "and compares them with 250 dense steps. Without a budget it shows all and chooses the cheapest that is good.\n"
    "The same command again resumes; another budget in the same folder reuses its measurements.",
    examples=(
        "medcli tune --saving 90%",
        "medcli tune sit_xl-mediators.safetensors --calls 12 -o tuning-xl",
    ),
)

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
    out.hint(f"see {Path(report.output) / 'tuning.png'}")


COMMAND = Command(
    request=TuneRequest,
    run=tune,
    details="Shows the front of cost against error, and the command that samples with the choice.\n"
    "The same command again resumes; another budget in the same folder reuses its measurements.",
    examples=(
        "medcli tune --saving 6%",
        "medcli tune sit_xl-mediators.safetensors --gmacs 26000 --metric fid --reference imagenet.npz -o tuning-xl",
    ),
)

"""`medcli convert`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.cli.table import table_of
from medcli.cli.text import Prose
from medcli.ladder import ranges
from medcli.runtime.text import macs_text
from medcli.settings.checkpoints import ConvertRequest

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.cli.table import FittedTable
    from medcli.workflows.convert import ConvertReport


def convert(request: ConvertRequest, out: Output) -> None:
    """Run `medcli convert`."""
    from medcli.workflows.convert import convert as run

    # Hashing takes longer than copying, and only the JSON shows it.
    report = run(replace(request, digest=out.as_json), out)
    out.result(report, summary(report))
    file = shlex.quote(str(report.output))
    if request.to == "medcli" and report.has_new_mediators:
        out.hint(f"medcli finetune {file} --data FOLDER --calibrate")
    elif request.to == "medcli":
        out.hint(f"medcli sample {file}")


CAPTION = (
    "a forward pass of one image, as the papers count; executed: sampling computes no queries and keys for all tokens"
)
COMMAND = Command(
    request=ConvertRequest,
    run=convert,
    details="Trained weights are copied as they are; new ones start neutral (biases and convolution are zero).",
    examples=(
        "medcli convert sit_xl.pt",
        "medcli convert sit_xl.pt --mediators 16,64 --layers all -o all.safetensors",
        "medcli convert DiT-XL-2-256x256.pt --layers none --to diffusers",
    ),
)


def summary(report: ConvertReport) -> Group:
    """Show the output, its differences from the source, and the cost of a forward pass before and after."""
    from rich.console import Group

    tables = [cost_table(report)] if report.config.mediators else []
    return Group(Prose(description(report)), *tables)


def description(report: ConvertReport) -> str:
    """Describe the output and its differences from the source."""
    from medcli.presets import preset_of

    config = report.config
    title = preset_of(config) or f"{config.family} of width {config.hidden_size} and depth {config.depth}"
    ladder = ", ".join(map(str, config.mediators))
    blocks = ranges(config.mediator_layers)
    attention = f"{ladder} mediators in blocks {blocks}" if ladder else "full attention in every block"
    counts = [f"{len(report.copied)} tensors copied"]
    for names, verb in ((report.resized, "resized"), (report.new, "new"), (report.dropped, "dropped")):
        counts += [f"{len(names)} {verb}"] if names else []
    return f"wrote {report.output} ({', '.join(counts)})\n{title}, {config.resolution_px} px, {attention}"


def cost_table(report: ConvertReport) -> FittedTable:
    """Build the table of the cost of a forward pass with full attention and with each mediator count."""
    everywhere = "saved % (--layers all)"
    columns = ("attention", "MACs", "saved %", "saved % (executed)", everywhere)
    rows: list[tuple[object, ...]] = [("full, as before", macs_text(report.gmacs_dense), None, None, None)]
    rows += [
        (
            f"{cost.num_mediators} mediators",
            macs_text(cost.gmacs),
            f"{cost.saving_percent:.2f}",
            f"{cost.executed_saving_percent:.2f}",
            f"{cost.all_layers_saving_percent:.2f}",
        )
        for cost in report.costs
    ]
    table = table_of(columns, rows, caption=CAPTION)
    return table.without((everywhere,)) if report.is_in_all_layers else table

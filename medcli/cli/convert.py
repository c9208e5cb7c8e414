"""`medcli convert`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output, printable
from medcli.settings.checkpoints import ConvertRequest

if TYPE_CHECKING:
    from medcli.workflows.convert import ConvertReport


def convert(request: ConvertRequest, out: Output) -> None:
    """Run `medcli convert`."""
    from medcli.workflows.convert import convert as run

    # Hashing takes longer than copying, and only the JSON shows it.
    report = run(replace(request, digest=out.as_json), out)
    out.result(report, summary(report))
    if request.to == "medcli":
        out.hint(f"medcli sample {shlex.quote(str(report.output))}")


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


def summary(report: ConvertReport) -> str:
    """Describe the output and its differences from the source."""
    from medcli.presets import preset_of

    config = report.config
    title = preset_of(config) or f"{config.family} of width {config.hidden_size} and depth {config.depth}"
    ladder = ", ".join(map(str, config.mediators))
    blocks = ", ".join(map(str, config.mediator_layers))
    attention = f"{ladder} mediators in blocks {blocks}" if ladder else "full attention in every block"
    counts = [f"{len(report.copied)} tensors copied"]
    for names, verb in ((report.resized, "resized"), (report.new, "new"), (report.dropped, "dropped")):
        counts += [f"{len(names)} {verb}"] if names else []
    return (
        f"wrote {printable(str(report.output))} ({', '.join(counts)})\n{title}, {config.resolution_px} px, {attention}"
    )

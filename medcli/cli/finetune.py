"""`medcli finetune`."""

from __future__ import annotations

import shlex

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.training import PIXELS


def finetune(request: FinetuneRequest, out: Output) -> None:
    """Run `medcli finetune`."""
    from medcli.cli.finetune_table import plan_table, report_table
    from medcli.runtime.processes import this_process
    from medcli.workflows.finetune.plan import plan_finetune
    from medcli.workflows.finetune.run import finetune as run

    if request.dry_run:
        plan = plan_finetune(request, out)
        if this_process().is_first:
            out.result(plan, plan_table(plan))
        return
    report = run(request, out)
    if this_process().is_first:
        out.result(report, report_table(report))
        decoder = "" if request.vae in (None, PIXELS) else f" --vae {shlex.quote(str(request.vae))}"
        out.hint(f"medcli sample {shlex.quote(report.output)}{decoder}")


COMMAND = Command(
    request=FinetuneRequest,
    run=finetune,
    details="Without CHECKPOINT and --preset it continues the bundled digits model. --mediators, --layers, --res and\n"
    "--num-classes change the network first, as convert does. The same command again resumes an interrupted run;\n"
    "accelerate launch -m medcli and torchrun -m medcli train in several processes. See docs/finetuning.md.",
    examples=(
        "medcli finetune --data digits --steps 20 --output runs/digits",
        "medcli finetune sit_xl.pt --data imagenet-latents --mediators 4,16,64 --calibrate --dry-run",
        "medcli finetune --preset SiT-S/2 --data imagenet-latents --steps 400000 --dtype bf16 --compile",
    ),
)

"""`medcli finetune`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output, printable
from medcli.cli.progress import duration
from medcli.cli.table import table_of
from medcli.cli.text import Prose
from medcli.runtime.text import macs_text
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.training import PIXELS

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.cli.table import FittedTable
    from medcli.workflows.finetune.plan import FinetunePlan
    from medcli.workflows.finetune.run import FinetuneReport

MIB = 2**20


def finetune(request: FinetuneRequest, out: Output) -> None:
    """Run `medcli finetune`."""
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
    details="Without CHECKPOINT and --preset it continues the bundled model. --mediators, --layers, --res and\n"
    "--num-classes change the network first, as convert does. The same command again resumes an interrupted run;\n"
    "accelerate launch -m medcli and torchrun -m medcli train in several processes. See docs/finetuning.md.",
    examples=(
        "medcli finetune digits --data digits --steps 20 --output runs/digits",
        "medcli finetune sit_xl.pt --data imagenet-latents --mediators 4,16,64 -n",
        "medcli finetune --preset SiT-S/2 --data imagenet-latents --dtype bf16",
    ),
)


def plan_table(plan: FinetunePlan) -> Group:
    """Build the tables of a plan: parameters, memory, work."""
    from rich.console import Group

    ladder = ", ".join(map(str, plan.mediators))
    attention = f"{ladder} mediators in {len(plan.layers)} of {plan.depth} blocks" if ladder else "full attention"
    what = printable(f"{plan.model}, {plan.family}, {plan.resolution_px} px, {attention}")
    how = f"trains {counts_text(plan.counts)}" + (f", rule: {plan.ladder_rule}" if len(plan.counts) > 1 else "")
    if plan.timesteps == "loss":
        how += ", timesteps drawn by their latest losses"
    return Group(Prose(f"{what}\n{how}"), _parameters(plan), _memory(plan), _work(plan))


def counts_text(counts: tuple[int, ...]) -> str:
    """Format mediator counts as text."""
    named = [f"{count}" for count in counts if count]
    words = [f"{', '.join(named)} mediators"] if named else []
    return " and ".join([*words, *(["full attention"] if 0 in counts else [])])


def _parameters(plan: FinetunePlan) -> FittedTable:
    rows = [(group.name, f"{group.num_trained:,}", f"{group.num_frozen:,}") for group in plan.groups]
    return table_of(
        ("parameters", "trained", "frozen"), [*rows, ("all", f"{plan.num_trained:,}", f"{plan.num_frozen:,}")]
    )


def _memory(plan: FinetunePlan) -> FittedTable:
    memory = plan.memory
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "AdamW's moments": memory.moments,
        "averaged weights": memory.averages,
        "teacher": memory.teacher,
        f"activations of {plan.micro_batch_size} images": memory.activations,
        "temporary and held by the allocator": memory.waste,
        "temporary in the update": memory.update,
        "peak": memory.total,
    }
    rows = [(name, f"{value / MIB:,.0f}") for name, value in parts.items() if value]
    return table_of(("memory per process", "MiB"), rows)


def _work(plan: FinetunePlan) -> FittedTable:
    left = plan.steps - plan.steps_done
    epochs = f"{plan.epochs:,.1f}" if plan.epochs >= 1 else f"{plan.epochs:.2g}"
    rows: list[tuple[str, str]] = [
        ("data", f"{plan.data}, {plan.num_images:,} images"),
        ("steps", f"{plan.steps:,}" + (f", {plan.steps_done:,} of them done" if plan.steps_done else "")),
        (
            "images seen",
            f"{plan.images_seen:,} in batches of {plan.global_batch_size:,}, {epochs} epochs",
        ),
        ("multiply-adds", f"{macs_text(plan.gmacs_per_step)} per step"),
        ("time", f"{duration(plan.total_secs)} for {left:,} steps on {plan.device}, {plan.step_secs:.3g} s per step"),
        ("disk", f"{plan.num_states} states of {plan.state_bytes / MIB:,.0f} MiB at once"),
        ("output", f"{plan.output}: {', '.join(plan.files)}"),
    ]
    calibration = "calibration, " if "calibration.json" in plan.files else ""
    remarks = [
        f"time and memory: measured on a micro-batch of {plan.time.num_timed_images} images at each count, scaled to a "
        f"step; {calibration}compilation, previews and saving not included"
    ]
    if plan.data_secs > plan.time.passes + plan.time.update:
        remarks.append(
            f"reading the data takes longest: {plan.data_secs:.3g} s per step, {plan.time.passes:.3g} s computing"
        )
    return table_of(("run", ""), rows, caption="\n".join(remarks))


def report_table(report: FinetuneReport) -> Group:
    """Build the tables of a finished run."""
    from rich.console import Group

    loss = "-" if report.loss is None else f"{report.loss:.4f}"
    rate = "" if report.images_per_sec is None else f", {report.images_per_sec:.4g} images/s overall"
    lines = [
        f"wrote {printable(report.output)}",
        f"{report.steps:,} steps on {counts_text(report.counts)}: loss {loss}{rate}",
    ]
    if report.skipped:
        lines.append(f"skipped steps: {', '.join(map(str, report.skipped))}")
    tables = [table for table in (_calibration(report), _comparison(report)) if table]
    return Group(Prose("\n".join(lines)), *tables)


def _calibration(report: FinetuneReport) -> FittedTable | None:
    """Build the table of the network's errors against its full attention."""
    if report.calibration is None:
        return None
    rows = [
        (row["num_mediators"], f"{row['before']:.4g}", f"{row['after']:.4g}") for row in report.calibration["output"]
    ]
    return table_of(
        ("mediators", "before calibration", "after"),
        rows,
        caption="relative squared error of the output against full attention; layers are in report.json",
    )


def _comparison(report: FinetuneReport) -> FittedTable | None:
    """Build the table of losses before and after, and of the control."""
    comparison = report.comparison
    if comparison is None:
        return None
    control = comparison.control or {}
    rows = [
        (
            count or "full attention",
            f"{comparison.before[count]:.5f}",
            f"{comparison.after[count]:.5f}",
            f"{control[count]:.5f}" if count in control else None,
        )
        for count in comparison.before
    ]
    caption = f"mean loss of {comparison.num_images} draws, the same for all"
    if control:
        caption += (
            "\ncontrol: as many steps with full attention in every block; a gain it shows too is not due to mediators"
        )
    return table_of(("mediators", "loss before", "after", "control"), rows, caption=caption)

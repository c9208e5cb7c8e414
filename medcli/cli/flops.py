"""`medcli flops`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.cli.table import table_of
from medcli.ladder import ranges
from medcli.runtime.text import count_text, macs_text
from medcli.settings.costs import FlopsRequest

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.cli.table import FittedTable
    from medcli.workflows.flops import FlopsReport, ModelCosts
    from medcli.workflows.image_cost import ImageCost, SamplingRun

UNITS = 'one image, one forward pass; 1 MAC = 2 FLOPs; the papers\' "GFLOPs" are GMACs, here under MACs'
EXECUTED = {
    True: "executed: sampling multiplies queries and keys into few mediators; params: with that one count",
    False: "executed: here every query and key is computed; params: with that one count",
}
"""Remark on costs, by whether any count saves queries and keys."""
DYNAMIC_BOUNDS = (
    "moves depend on the image, so these are bounds: no move, and moves as early as the rule allows; "
    "with --manifest FOLDER, a folder of medcli sample, it is the mean of that run"
)


def flops(request: FlopsRequest, out: Output) -> None:
    """Run `medcli flops`."""
    from medcli.workflows.flops import flops as run

    report = run(request)
    out.result(report, summary(report))


COMMAND = Command(
    request=FlopsRequest,
    run=flops,
    details="A model without mediators is counted with 4, 16 and 64 of them in all blocks.\n"
    "Any schedule or sampling option adds the cost of whole images.",
    examples=(
        "medcli flops --res 1024",
        "medcli flops EDT-XL MDTv2-XL/2 DiT-XL/2 SiT-XL/2 --mediators 4,16,64",
        "medcli flops SiT-XL/2 --schedule dynamic --rho 0.3,0.1 --cfg-scale 1.5",
    ),
)


def summary(report: FlopsReport) -> Group:
    """Build a table of forward passes, and one of whole images if requested."""
    from rich.console import Group

    columns = ("model", "px", "attention", "mediators", "MACs", "FLOPs", "MACs (executed)", "params", "saved %")
    rows = [
        (
            row.model,
            row.resolution_px,
            row.attention,
            row.num_mediators or None,
            macs_text(row.gmacs),
            macs_text(row.gflops),
            macs_text(row.gmacs_done),
            count_text(row.num_params),
            f"{row.saving_percent:.2f}",
        )
        for row in report.rows
    ]
    saves = any(row.gmacs_done != row.gmacs for row in report.rows)
    caption = [UNITS, EXECUTED[saves], *map(mediated, report.models), *report.remarks]
    passes = table_of(
        columns,
        rows,
        caption="\n".join(dict.fromkeys(line for line in caption if line)),
        optional=("FLOPs", "attention", "params", "MACs (executed)"),
    )
    names = [costs.model if len(report.models) > 1 else "" for costs in report.models]
    tables = [
        image_table(name, costs.images, costs.run)
        for name, costs in zip(names, report.models, strict=True)
        if costs.run is not None
    ]
    return Group(passes, *tables)


def mediated(costs: ModelCosts) -> str:
    """Describe the blocks of a network that have mediators."""
    layers = next((row.layers for row in costs.rows if row.layers), ())
    return f"mediators in blocks {ranges(layers)} of {costs.depth}" if layers else ""


def image_table(name: str, images: tuple[ImageCost, ...], run: SamplingRun) -> FittedTable:
    """Build a table with a row for each resolution and schedule: network calls and their cost."""
    columns = (
        *("px", "schedule", "mediators", "NFE", "forward passes", "MACs an image", "MACs (executed)"),
        *("MACs (dense)", "saved %"),
    )
    rows = [
        (
            image.resolution_px,
            image.schedule,
            ",".join(map(str, image.mediators)) or None,
            f"{image.nfe:g}",
            image.passes_per_call,
            *_costs(image),
        )
        for image in images
    ]
    settings = [name] if name else []
    settings += [f"{run.sampler.sampler} {run.sampler.solver}, {run.sampler.steps} steps"]
    settings += [f"guidance {run.guidance.scale:g}" if run.guidance.is_on else "no guidance"]
    settings += [] if run.moves is None else [f"mean over the {run.num_images} images of that run"]
    remarks = [", ".join(settings)] + ([DYNAMIC_BOUNDS] if any(image.gmacs is None for image in images) else [])
    optional = ("forward passes", "MACs (dense)", "MACs (executed)", "NFE")
    return table_of(columns, rows, caption="\n".join(remarks), optional=optional)


def _costs(image: ImageCost) -> tuple[str | None, ...]:
    """Format cost as the papers count and as executed, dense cost and saving; bounds for planned dynamic runs."""
    dense = macs_text(image.gmacs_dense)
    if image.gmacs is not None and image.gmacs_done is not None:
        return macs_text(image.gmacs), macs_text(image.gmacs_done), dense, f"{image.saving_percent:.2f}"
    saved = [100 * (1 - gmacs / image.gmacs_dense) for gmacs in (image.gmacs_min, image.gmacs_max)]
    limits = [(image.gmacs_min, image.gmacs_max), (image.gmacs_done_min, image.gmacs_done_max)]
    macs, done = (f"{macs_text(low)} to {macs_text(high)}" for low, high in limits)
    return macs, done, dense, f"{saved[0]:.2f} to {saved[1]:.2f}"

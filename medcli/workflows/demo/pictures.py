"""Pictures of the demo: the same images by each variant, and the moves along the ladder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcli.charts.figure import save_png
from medcli.charts.plots import add_legend, picture_grid
from medcli.data.images import read_manifest
from medcli.engine.image_records import file_name, read_records
from medcli.engine.pictures import read_png
from medcli.runtime.text import macs_text, printable
from medcli.workflows.demo.report import DemoRow
from medcli.workflows.sample.report import SampleReport

NUM_COLUMNS = 10
"""Images of each variant."""


def draw_grid(path: Path, folders: Sequence[Path], rows: Sequence[DemoRow]) -> None:
    """Draw the first images of each variant, a row each, with the names of variants and classes.

    Args:
        path: The picture.
        folders: Finished sample folders with the same noise and labels.
        rows: Their measurements.
    """
    images = [[read_png(folder / file_name(index)) for index in range(NUM_COLUMNS)] for folder in folders]
    labels = {record.index: record.label for record in read_records(folders[0]) if record}
    known = (read_manifest(folders[0]) or {}).get("class_names", {})
    columns = [printable(str(known.get(str(labels[index]), labels[index]))) for index in range(NUM_COLUMNS)]
    named = [f"{row.variant}\n{row.nfe:g} calls, {macs_text(row.gmacs_per_image)} MACs" for row in rows]
    title = "The same noise and class in each column"
    size = (9, 1.0 + 0.72 * len(rows))
    save_png(path, lambda figure: picture_grid(figure.subplots(), images, named, columns), title=title, size=size)


def draw_switches(path: Path, report: SampleReport) -> None:
    """Draw the moves of each image along the ladder: one line an image, one colour a mediator count."""
    order = sorted(report.switch_steps)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for index, count in enumerate(report.counts):
            starts = [_first_step(steps, index, report.num_steps) for steps in order]
            ends = [_first_step(steps, index + 1, report.num_steps) for steps in order]
            widths = [end - start for start, end in zip(starts, ends, strict=True)]
            name = f"{count} mediator{'s' if count > 1 else ''}"
            axes.barh(range(len(order)), widths, left=starts, height=1.0, label=name)
        axes.set(
            xlabel="solver step", ylabel="image, sorted", xlim=(0, report.num_steps), ylim=(-0.5, len(order) - 0.5)
        )
        add_legend(axes)

    save_png(path, draw, title="Mediators in use at each solver step")


def _first_step(switch_steps: tuple[int, ...], index: int, num_steps: int) -> int:
    """Return the first solver step at a ladder index; the number of steps if it was never reached."""
    if index == 0:
        return 0
    return switch_steps[index - 1] + 1 if len(switch_steps) >= index else num_steps

"""Section of a page for one sample folder."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from medcli.charts.figure import svg
from medcli.charts.plots import Moves, move_histogram, step_curve
from medcli.data.image_files import read_image
from medcli.pages.page import Figure, Section, Thumbnail
from medcli.schedule.spec import Schedule
from medcli.settings.sampler import PAPER_STEPS
from medcli.workflows.report.json_access import Json, checkpoint_facts, join, look_up, rounded, text
from medcli.workflows.report.runs import Picture, SampledRun

LARGEST_PX = 192
"""Side above which a picture is scaled down for the page."""
SMALLEST_PX = 64
"""Side below which pixels are shown as squares."""
QUALITY = 88
"""JPEG quality of pictures that were scaled down; the others are kept as they are."""


def run_section(run: SampledRun, anchor: str) -> Section:
    """Return the section of a run: pictures, costs, moves, settings and hashes.

    Raises:
        DataError: If a picture is damaged.
    """
    notes = []
    if run.num_images < run.num_promised:
        notes.append(f"Unfinished: {run.num_images} of {run.num_promised} images exist.")
    return Section(
        title=run.name,
        anchor=anchor,
        lead=f"{text(run.manifest.get('model'))}: {schedule_in_words(run.run.schedule)}.",
        notes=tuple(notes),
        thumbnails=tuple(map(thumbnail, run.pictures)),
        facts=tuple(_facts(run)),
        figures=tuple(_figures(run)),
        commands=() if run.command is None else (run.command,),
    )


def schedule_in_words(schedule: Schedule) -> str:
    """Describe a schedule in words."""
    if schedule.kind == "full":
        return "full attention"
    counts = f"{join(count for count in schedule.counts if count)} mediators"
    if schedule.kind == "static":
        return f"{counts} throughout"
    counts += " in turn" if schedule.counts[-1] else ", then full attention"
    if schedule.is_timed:
        return f"{counts}, from {join(f'{share:g}' for share in schedule.at)} of the steps on"
    rho = join(f"{value:g}" for value in schedule.rho)
    return f"{counts}, thresholds {rho} on {schedule.distance.upper()} change"


def saving_text(percent: float) -> str:
    """Format a saving; negative if the run costs more than full attention."""
    return "0.0" if abs(percent) < 0.05 else f"{percent:.1f}"


def thumbnail(picture: Picture) -> Thumbnail:
    """Return a picture for the page, unchanged if it is small.

    Raises:
        DataError: If it is damaged.
    """
    pixels_YXC, _ = read_image(picture.file)
    image = Image.fromarray(np.ascontiguousarray(pixels_YXC))
    buffer, kind = io.BytesIO(), "png"
    if max(image.size) > LARGEST_PX:
        image.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
        kind = "jpeg"
        image.save(buffer, "jpeg", quality=QUALITY)
    else:
        image.save(buffer, "png", optimize=True)
    return Thumbnail(
        source=f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}",
        alt=f"image {picture.index}, class {picture.label}{picture.class_name and f' ({picture.class_name})'}",
        caption=picture.class_name or f"class {picture.label}",
        side=max(SMALLEST_PX, min(LARGEST_PX, max(image.size))),
        is_enlarged=max(image.size) < SMALLEST_PX,
    )


def _facts(run: SampledRun) -> list[tuple[str, str]]:
    settings: Json = run.manifest["settings"]
    sampler, guidance = run.run.sampler, run.run.guidance
    saved = run.saved_percent
    facts = [
        ("images", f"{run.num_images:,}"),
        ("resolution", f"{rounded(run.manifest.get('resolution_px'))} px"),
        ("sampler", f"{sampler.sampler}, {sampler.solver}, {sampler.steps} steps"),
        ("NFE", rounded(run.total("nfe"))),
        ("guidance", f"scale {guidance.scale:g}" if guidance.is_on else "off"),
        ("seed", rounded(settings.get("seed"))),
        ("GMACs per image", rounded(run.total("gmacs_per_image"))),
        ("GMACs per image (executed)", rounded(run.total("gmacs_done_per_image"))),
        ("GMACs per image (dense)", rounded(run.total("gmacs_dense"))),
        (f"GMACs per image (dense, {PAPER_STEPS} steps)", rounded(run.papers_gmacs)),
        ("saved", "-" if saved is None else f"{saving_text(saved)} %"),
        ("images per second", rounded(run.total("images_per_sec"), 3)),
        ("device", text(look_up(run.manifest, "run", "device"))),
    ]
    facts += checkpoint_facts(settings)
    versions = run.manifest.get("versions")
    if isinstance(versions, Mapping):
        facts.append(("versions", join(f"{name} {text(versions[name])}" for name in sorted(versions))))
    return [*facts, ("manifest, SHA-256", run.sha256)]


def _figures(run: SampledRun) -> list[Figure]:
    figures = []
    counts = run.run.schedule.counts
    if run.num_steps and len(counts) > 1:
        moves = [
            Moves(name=f"{before} to {after or 'full'}", steps=run.moves_to(place))
            for place, (before, after) in enumerate(pairwise(counts), 1)
        ]
        summaries = "; ".join(f"{move.name}: {move.summary(run.num_images)}" for move in moves)
        draw = partial(move_histogram, moves=moves, num_steps=run.num_steps, num_images=run.num_images)
        description = f"Switch steps of {run.name}. {summaries}"
        figures.append(
            Figure(
                svg=svg(draw, height=50 + 85 * len(moves), description=description),
                title="Switch steps",
                caption="Number of images by the solver step whose result triggered the move.",
            )
        )
    if costs := run.step_costs():
        figures.append(_cost_figure(run.name, *costs))
    return figures


def _cost_figure(name: str, means: tuple[float, ...], dense: tuple[float, ...]) -> Figure:
    description = (
        f"Cost of each of {len(means)} solver steps of {name}: from {means[0]:.4g} GMACs in the first to "
        f"{means[-1]:.4g} in the last; full attention takes {dense[0]:.4g} to {dense[-1]:.4g}."
    )

    def draw(figure: Any) -> None:
        names = ("mean over the images", "full attention")
        step_curve(figure.subplots(), means, dense, names=names, y="GMACs per image")

    return Figure(
        svg=svg(draw, height=236, description=description),
        title="Cost of each step",
        caption="In the papers' convention, all network calls of a step together.",
    )

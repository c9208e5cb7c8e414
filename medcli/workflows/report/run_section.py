"""The section of one sample folder."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from medcli.data.images import read_image
from medcli.pages.curves import Curve, curves
from medcli.pages.histogram import Moves, histogram
from medcli.pages.page import Figure, Section, Thumbnail, legend_of
from medcli.schedule.spec import Schedule
from medcli.workflows.report.json_access import Json, checkpoint_facts, listed, look_up, shown, text
from medcli.workflows.report.runs import Picture, SampledRun

LARGEST_PX = 192
"""Side beyond which a picture is made smaller for the page."""
SMALLEST_PX = 64
"""Side below which its pixels are shown as squares."""
QUALITY = 88
"""Of pictures that were made smaller; the others are kept as they are."""


def run_section(run: SampledRun, anchor: str) -> Section:
    """Pictures, cost, moves and where it all comes from.

    Raises:
        DataError: If a picture is damaged.
    """
    notes = []
    if run.num_images < run.num_promised:
        notes.append(f"Unfinished: {run.num_images} of {run.num_promised} images are there.")
    return Section(
        title=run.name,
        anchor=anchor,
        lead=f"{text(run.manifest.get('model'))}: {schedule_in_words(run.run.schedule)}.",
        notes=tuple(notes),
        thumbnails=tuple(map(thumbnail, run.pictures)),
        facts=tuple(_facts(run)),
        figures=tuple(_figures(run)),
        commands=(run.command,),
    )


def schedule_in_words(schedule: Schedule) -> str:
    """What the schedule does."""
    if schedule.kind == "full":
        return "full attention"
    counts = listed(schedule.counts)
    if schedule.kind == "static":
        return f"{counts} mediators throughout"
    rho = listed(f"{value:g}" for value in schedule.rho)
    return f"{counts} mediators in turn, thresholds {rho} on {schedule.distance.upper()} change"


def thumbnail(picture: Picture) -> Thumbnail:
    """A picture inside the page, as it is if it is small.

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
        alt=f"image {picture.index}, class {picture.label}",
        side=max(SMALLEST_PX, min(LARGEST_PX, max(image.size))),
        is_enlarged=max(image.size) < SMALLEST_PX,
    )


def _facts(run: SampledRun) -> list[tuple[str, str]]:
    settings: Json = run.manifest["settings"]
    sampler, guidance = run.run.sampler, run.run.guidance
    saved = run.saved_percent
    facts = [
        ("images", f"{run.num_images:,}"),
        ("resolution", f"{shown(run.manifest.get('resolution_px'))} px"),
        ("sampler", f"{sampler.sampler}, {sampler.solver}, {sampler.steps} steps"),
        ("network calls an image", shown(run.total("nfe"))),
        ("guidance", f"scale {guidance.scale:g}" if guidance.is_on else "off"),
        ("seed", shown(settings.get("seed"))),
        ("GMACs an image, as the papers count", shown(run.total("gmacs_per_image"))),
        ("of them really multiplied", shown(run.total("gmacs_done_per_image"))),
        ("GMACs with full attention", shown(run.total("gmacs_dense"))),
        ("saved", "-" if saved is None else f"{max(saved, 0) if abs(saved) < 0.05 else saved:.1f} %"),
        ("images a second", shown(run.total("images_per_sec"), 3)),
        ("device", text(look_up(run.manifest, "run", "device"))),
    ]
    facts += checkpoint_facts(settings)
    versions = run.manifest.get("versions")
    if isinstance(versions, Mapping):
        facts.append(("made with", listed(f"{name} {text(versions[name])}" for name in sorted(versions))))
    return [*facts, ("manifest, SHA-256", run.sha256)]


def _figures(run: SampledRun) -> list[Figure]:
    figures = []
    counts = run.run.schedule.counts
    if run.num_steps and len(counts) > 1:
        moves = [
            Moves(name=f"{before} to {after}", steps=run.moves_to(place))
            for place, (before, after) in enumerate(zip(counts, counts[1:], strict=False), 1)
        ]
        figures.append(
            Figure(
                svg=histogram(moves, run.num_steps, run.num_images),
                title="When images moved up the ladder",
                caption="Images by the solver step whose result triggered the move.",
            )
        )
    if costs := run.step_costs():
        figures.append(_cost_figure(*costs))
    return figures


def _cost_figure(means: tuple[float, ...], dense: tuple[float, ...]) -> Figure:
    own, full = "mean over the images", "full attention"
    lines = [Curve(name=own, values=means), Curve(name=full, values=dense, is_level=True)]
    says = (
        f"Cost of each of {len(means)} solver steps: from {means[0]:.4g} GMACs in the first to {means[-1]:.4g} in the "
        f"last; full attention takes {dense[0]:.4g} to {dense[-1]:.4g}."
    )
    return Figure(
        svg=curves(lines, names=("solver step", "GMACs an image"), says=says),
        title="Cost of each step",
        caption="In the papers' convention, all network calls of a step together.",
        legend=(*legend_of([own]), ("level", full)),
    )

"""Make images from a checkpoint, into a folder that can be continued, extended and scored."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from medcli.checkpoint.load import load_model
from medcli.data.autoencoder import Decoder, open_decoder
from medcli.diffusion.steps import build_sampler
from medcli.engine.cost import call_gmacs, image_gmacs
from medcli.engine.folder import (
    ARCHIVE,
    FORMAT_VERSION,
    GRID,
    Record,
    SampleFolder,
    check_folder,
    file_name,
    mean_switch_steps,
    open_folder,
    require_space,
    write_manifest,
)
from medcli.engine.generate import generate
from medcli.engine.networks import Stage, stages_of
from medcli.engine.plan import ADAPTIVE_SOLVERS, FinishedImage
from medcli.errors import CheckpointError
from medcli.metrics.reference import BUNDLED, bundled_info
from medcli.runtime.device import pick_device
from medcli.runtime.reporting import Reporter
from medcli.version import __version__
from medcli.workflows.sample_settings import SampleRequest, SampleSetup, picture_settings, set_up

# Dimension key: B images, C latent channels, Y X height and width.

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReport:
    """What a sample folder holds and what it cost."""

    output: str
    num_images: int
    nfe: float
    """Network calls of an image; the two halves of guidance are one call. Whole but for adaptive solvers' mean."""
    gmacs_per_image: float
    """Mean over the images, from the calls each really made."""
    gmacs_dense: float
    """The same image with full attention in every layer."""
    seconds: float
    """Time spent making images, summed over the runs that ended by themselves."""
    images_per_sec: float | None
    """None if the time is not known."""
    switch_steps_mean: tuple[float | None, ...]
    """Mean step of each move along the ladder, over the images that made it; None where none did."""
    switch_steps: tuple[tuple[int, ...], ...] = ()
    """Each image's moves, for a histogram."""
    counts: tuple[int, ...] = ()
    """Mediator count of each ladder entry."""
    num_steps: int = 0
    """Solver steps of an image; 0 for adaptive solvers."""
    num_new: int = 0
    """Images made by this run."""

    def to_json(self) -> dict[str, Any]:
        """The keys of the contract."""
        return {"output": self.output, "num_images": self.num_images, **self.totals()}

    def totals(self) -> dict[str, Any]:
        """What the manifest keeps of a finished run."""
        names = ("nfe", "gmacs_per_image", "gmacs_dense", "seconds", "images_per_sec")
        return {**{name: getattr(self, name) for name in names}, "switch_steps_mean": list(self.switch_steps_mean)}


def sample(request: SampleRequest, reporter: Reporter) -> SampleReport:
    """Make the images a request asks for that are not there yet.

    Everything cheap is checked before anything slow: settings, autoencoder, folder, disk space; then weights load.

    Raises:
        MedcliError: For anything the user can fix; what has been made so far stays and the same request goes on.
    """
    device = pick_device(request.device)
    setup = set_up(request, device.type)
    decoder = open_decoder(setup.config, autoencoder=request.vae, device=device, dtype=DTYPES[request.dtype])
    settings = picture_settings(setup, request)
    before = check_folder(setup.output, settings)
    setup = replace(setup, plan=replace(setup.plan, batch_size=_batch_size(setup, request, before)))
    manifest = _manifest(setup, request, settings, before, device)
    require_space(setup.output, request.num_images, setup.config.resolution_px, archive=request.npz)
    write_manifest(setup.output, manifest)
    with open_folder(setup.output) as folder:
        missing = [index for index in range(request.num_images) if index not in folder.records]
        if missing:
            seconds = _fill(folder, setup, request, decoder, missing, device, reporter)
            manifest["sessions"] = [*manifest["sessions"], {"images": len(missing), "seconds": seconds}]
        _write_pictures(folder, setup, npz=request.npz, changed=bool(missing))
        report = replace(_report(folder, setup, manifest["sessions"]), num_new=len(missing))
    write_manifest(setup.output, {**manifest, "totals": report.totals()})
    return report


def _batch_size(setup: SampleSetup, request: SampleRequest, before: dict[str, Any] | None) -> int:
    """Rows of a batch: at most the new images; those of an interrupted run when it goes on, so that rounding agrees."""
    if (
        before
        and before["num_images"] >= request.num_images
        and before["run"]["batch_size_asked"] == request.batch_size
    ):
        return int(before["run"]["batch_size"])
    num_new = request.num_images - (before["num_images"] if before else 0)
    return min(setup.plan.batch_size, num_new) if num_new > 0 else setup.plan.batch_size


def _manifest(
    setup: SampleSetup,
    request: SampleRequest,
    settings: dict[str, Any],
    before: dict[str, Any] | None,
    device: torch.device,
) -> dict[str, Any]:
    """The manifest of a run that starts, or of the run that goes on, unchanged where nothing is added to it."""
    if before and before["num_images"] >= request.num_images:
        return before
    reference = setup.infos[0].reference
    return {
        "format_version": FORMAT_VERSION,
        "num_images": request.num_images,
        "resolution_px": setup.config.resolution_px,
        "model": setup.infos[0].preset or f"{setup.config.family}, {setup.infos[0].num_params:,} parameters",
        "reference": reference,
        "extractor": bundled_info(reference).extractor if reference and reference in BUNDLED else None,
        "settings": settings,
        "run": {
            "batch_size": setup.plan.batch_size,
            "batch_size_asked": request.batch_size,
            "device": str(device),
            "compiled": request.compiled,
        },
        "versions": {
            "medcli": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "sessions": before["sessions"] if before else [],
    }


def _fill(
    folder: SampleFolder,
    setup: SampleSetup,
    request: SampleRequest,
    decoder: Decoder,
    missing: list[int],
    device: torch.device,
    reporter: Reporter,
) -> float:
    """Make the missing images; seconds from the first network call to the last file."""
    stages, plan = _load_stages(setup, request, device), setup.plan
    costs = [call_gmacs(stage.config, stage.num_mediators, plan.guidance) for stage in stages]
    start = time.monotonic()
    for image, pixels_YXC in _decoded(generate(stages, plan, missing, device=device, reporter=reporter), decoder):
        name = file_name(image.index)
        gmacs = image_gmacs(image.calls, costs)
        record = Record(
            index=image.index,
            label=image.label,
            file=name,
            switch_steps=image.switch_steps,
            gmacs=float(f"{gmacs:.9g}"),
        )
        folder.add(record, pixels_YXC.numpy())
    return round(time.monotonic() - start, 3)


def _load_stages(setup: SampleSetup, request: SampleRequest, device: torch.device) -> tuple[Stage, ...]:
    """Load the weights: one model, or one a ladder entry."""
    models = [
        load_model(
            info.path,
            family=request.family,
            num_heads=request.num_heads,
            weights=request.weights,
            device=device,
            dtype=DTYPES[request.dtype],
        )
        for info in setup.infos
    ]
    counts = setup.plan.schedule.counts
    by_count = dict(zip(counts, models, strict=True)) if request.stages else dict.fromkeys(counts, models[0])
    return stages_of(by_count, counts, compiled=request.compiled)


def _decoded(images: Iterable[FinishedImage], decoder: Decoder) -> Iterator[tuple[FinishedImage, torch.Tensor]]:
    """Decode images as they come, a full batch of the decoder's at a time; the last one is padded."""
    held: list[FinishedImage] = []
    for image in images:
        _check_finite(image)
        held.append(image)
        if len(held) == decoder.batch_size:
            yield from zip(held, _decode(held, decoder), strict=True)
            held = []
    if held:
        yield from zip(held, _decode(held, decoder), strict=True)


def _decode(images: list[FinishedImage], decoder: Decoder) -> torch.Tensor:
    latents = [image.latent_CYX for image in images]
    latents += latents[:1] * (decoder.batch_size - len(latents))
    return decoder.decode(torch.stack(latents))[: len(images)]


def _check_finite(image: FinishedImage) -> None:
    if not bool(torch.isfinite(image.latent_CYX).all()):
        raise CheckpointError(
            f"image {image.index} came out as NaN or infinity: the solver diverged on this model",
            hint="try --dtype fp32, more --steps or another --solver; check --family and --prediction",
        )


def _write_pictures(folder: SampleFolder, setup: SampleSetup, *, npz: bool, changed: bool) -> None:
    """Make the grid and the archive where images were added, or where they are not there yet."""
    side_px, labels = setup.config.resolution_px, setup.plan.labels
    if changed or not (folder.path / GRID).exists():
        folder.write_grid(len(labels.classes) if labels.sampling == "equal" else 0, side_px)
    has_archive = (folder.path / ARCHIVE).exists()
    if (npz and not has_archive) or (has_archive and changed):
        folder.write_archive(side_px)


def _report(folder: SampleFolder, setup: SampleSetup, sessions: list[dict[str, Any]]) -> SampleReport:
    """Totals over everything the folder holds."""
    records, plan, config = folder.ordered(), setup.plan, setup.config
    gmacs = sum(record.gmacs for record in records) / len(records)
    if plan.sampler.solver in ADAPTIVE_SOLVERS:
        nfe, num_steps = round(gmacs / call_gmacs(config, plan.schedule.counts[0], plan.guidance), 3), 0
    else:
        sampler = build_sampler(plan.sampler)
        nfe, num_steps = sampler.nfe, sampler.num_steps
    seconds = sum(session["seconds"] for session in sessions)
    made = sum(session["images"] for session in sessions)
    return SampleReport(
        output=str(folder.path),
        num_images=len(records),
        nfe=nfe,
        gmacs_per_image=gmacs,
        gmacs_dense=nfe * call_gmacs(config, 0, plan.guidance),
        seconds=round(seconds, 3),
        images_per_sec=made / seconds if seconds else None,
        switch_steps_mean=tuple(mean_switch_steps(records, len(plan.schedule.counts) - 1)),
        switch_steps=tuple(record.switch_steps for record in records),
        counts=plan.schedule.counts,
        num_steps=num_steps,
    )

"""Make images from a checkpoint, into a folder that can be continued, extended and scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import fsum
from typing import Any

import torch

from medcli.data.autoencoder import open_decoder
from medcli.data.images import read_manifest
from medcli.diffusion.steps import build_sampler
from medcli.engine.cost import call_gmacs, done_gmacs, gmacs_of_moves, pass_gmacs
from medcli.engine.guidance_phases import step_passes
from medcli.engine.image_records import totals_of
from medcli.engine.manifest import (
    FORMAT_VERSION,
    check_folder,
    recorded_checkpoints,
    require_image_space,
    write_manifest,
)
from medcli.engine.plan import ADAPTIVE_SOLVERS
from medcli.engine.sample_folder import ARCHIVE, GRID, SampleFolder
from medcli.errors import ConfigError, DataError
from medcli.runtime.device import own_device
from medcli.runtime.precision import DTYPES
from medcli.runtime.processes import Processes, this_process
from medcli.runtime.reporting import Reporter
from medcli.runtime.versions import versions
from medcli.scores.reference import BUNDLED, bundled_info
from medcli.settings.sampling import SampleRequest
from medcli.workflows.sample.amm import amm_report
from medcli.workflows.sample.generate import ImageGeneration
from medcli.workflows.sample.settings import SampleSetup, model_name, picture_settings, set_up


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReport:
    """What a sample folder holds and what it cost."""

    output: str
    num_images: int
    nfe: float
    """Network calls of an image; the two halves of guidance are one call. Whole but for adaptive solvers' mean."""
    gmacs_per_image: float
    """Mean over the images, from the calls each really made, in the papers' convention."""
    gmacs_done_per_image: float
    """The same without the queries and keys that sampling never computes (`medcli.model.absorption`)."""
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
    """Mediator count of each ladder index."""
    num_steps: int = 0
    """Solver steps of an image; 0 for adaptive solvers."""
    gmacs_per_pass: tuple[float, ...] = ()
    """Cost of one forward pass of an image at each ladder index."""
    num_new: int = 0
    """Images made by this run."""
    amm: dict[str, Any] | None = None
    """Attention modulation and what it costs, see `amm_report`; None without."""

    def to_json(self) -> dict[str, Any]:
        """The keys of the contract, and `gmacs_done_per_image` and `amm`."""
        return {"output": self.output, "num_images": self.num_images, **self.totals(), "amm": self.amm}

    def totals(self) -> dict[str, Any]:
        """Cost and speed."""
        names = ("nfe", "gmacs_per_image", "gmacs_done_per_image", "gmacs_dense", "seconds", "images_per_sec")
        return {**{name: getattr(self, name) for name in names}, "switch_steps_mean": list(self.switch_steps_mean)}

    def recorded(self) -> dict[str, Any]:
        """What the manifest keeps of a finished run."""
        return {**self.totals(), "gmacs_per_pass": list(self.gmacs_per_pass)}


def sample(request: SampleRequest, reporter: Reporter) -> SampleReport:
    """Make the images a request asks for that are not there yet, together with any other process that does the same.

    Everything cheap is checked before anything slow: settings, autoencoder, folder, disk space; then weights load. Of
    the processes of a launch, the first waits for the others, makes what they left behind, and completes the folder;
    what the others report is what there is when they are through.

    Raises:
        MedcliError: For anything the user can fix; what has been made so far stays and the same request goes on.
    """
    processes = this_process()
    device = own_device(request.device, processes)
    setup = set_up(request, device.type)
    dtype = DTYPES[request.dtype]
    decoder = open_decoder(setup.config, autoencoder=request.vae, device=device, dtype=dtype)
    settings = picture_settings(setup, request, earlier=recorded_checkpoints(setup.output))
    check_folder(setup.output, settings)
    require_image_space(setup.output, request.num_images, setup.config.resolution_px, archive=request.npz)
    with SampleFolder(setup.output, processes) as folder:
        before = check_folder(setup.output, settings)
        setup = replace(setup, plan=replace(setup.plan, batch_size=_batch_size(setup, request, before, processes)))
        manifest = _manifest(setup, request, settings, before, device)
        if manifest != before and not folder.work.is_alone:
            raise ConfigError(f"{setup.output} is being filled by a run to fewer images", hint="wait until it is done")
        write_manifest(setup.output, manifest)
        num_before = folder.num_done
        seconds = ImageGeneration(folder, setup, request, decoder, device, dtype, processes, reporter).run()
        session = {"images": folder.num_done - num_before, "seconds": seconds}
        return _complete(folder, setup, session, npz=request.npz) if processes.is_first else _report(folder, setup, [])


def _batch_size(setup: SampleSetup, request: SampleRequest, before: dict[str, Any] | None, processes: Processes) -> int:
    """Rows of a batch: those of an interrupted run when it goes on, so that rounding agrees; else what is useful.

    That is at most the new images, and at most each process's share of them unless the user names a number.
    """
    if (
        before
        and before["num_images"] >= request.num_images
        and before["run"]["batch_size_asked"] == request.batch_size
    ):
        return int(before["run"]["batch_size"])
    num_new = request.num_images - (before["num_images"] if before else 0)
    share = num_new if request.batch_size else -(-num_new // processes.count)
    return min(setup.plan.batch_size, share) if num_new > 0 else setup.plan.batch_size


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
    info = setup.networks[0].opened.info
    reference = info.reference
    return {
        "format_version": FORMAT_VERSION,
        "num_images": request.num_images,
        "resolution_px": setup.config.resolution_px,
        "model": model_name(info),
        "reference": reference,
        "extractor": bundled_info(reference).extractor if reference and reference in BUNDLED else None,
        "settings": settings,
        "run": {
            "batch_size": setup.plan.batch_size,
            "batch_size_asked": request.batch_size,
            "device": str(device),
            "compiled": request.compiled,
        },
        "versions": versions("numpy"),
        "sessions": before["sessions"] if before else [],
    }


def _complete(folder: SampleFolder, setup: SampleSetup, session: dict[str, Any], *, npz: bool) -> SampleReport:
    """Write the pictures of all images, and the totals; this process is alone in the folder."""
    manifest = read_manifest(folder.path)
    if manifest is None:
        raise DataError(f"the manifest of {folder.path} is gone", hint="run the medcli sample command again")
    sessions = manifest["sessions"] + ([session] if session["images"] else [])
    _write_pictures(folder, setup, npz=npz, changed="totals" not in manifest or bool(session["images"]))
    report = replace(_report(folder, setup, sessions), num_new=session["images"])
    write_manifest(folder.path, {**manifest, "sessions": sessions, "totals": report.recorded()})
    return report


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
    plan, config = setup.plan, setup.config
    totals = totals_of(folder.records(), len(plan.schedule.counts) - 1)
    costs_done = [done_gmacs(own, count) for own, count in zip(setup.configs, plan.schedule.counts, strict=True)]
    if plan.sampler.solver in ADAPTIVE_SOLVERS:
        nfe, num_steps = round(totals.gmacs / call_gmacs(config, plan.schedule.counts[0], plan.guidance), 3), 0
        passes = nfe * plan.guidance.num_halves
        done = [passes * costs_done[0]]
    else:
        sampler = build_sampler(plan.sampler)
        passes_L = step_passes(sampler, plan.guidance)
        nfe, num_steps, passes = sampler.nfe, sampler.num_steps, int(passes_L.sum())
        done = gmacs_of_moves(passes_L, totals.switch_steps, costs_done)
    seconds = sum(session["seconds"] for session in sessions)
    made = sum(session["images"] for session in sessions)
    return SampleReport(
        output=str(folder.path),
        num_images=folder.num_done,
        nfe=nfe,
        gmacs_per_image=totals.gmacs,
        gmacs_done_per_image=fsum(done) / max(1, len(done)),
        gmacs_dense=passes * pass_gmacs(config, 0),
        seconds=round(seconds, 3),
        images_per_sec=made / seconds if seconds else None,
        switch_steps_mean=totals.switch_steps_mean,
        switch_steps=totals.switch_steps,
        counts=plan.schedule.counts,
        num_steps=num_steps,
        amm=None if setup.amm is None else amm_report(setup.amm, config),
        gmacs_per_pass=tuple(
            pass_gmacs(own, count) for own, count in zip(setup.configs, plan.schedule.counts, strict=True)
        ),
    )

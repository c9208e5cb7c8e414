"""Generate images from a checkpoint into a folder that can be continued, extended and scored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from medcli.data.autoencoder import open_decoder
from medcli.data.images import MANIFEST
from medcli.data.sampled_latents import SampledLatents
from medcli.engine.batch_fit import even_batch_size
from medcli.engine.effects import unreached_counts
from medcli.engine.image_records import Record, num_lines
from medcli.engine.manifest import (
    FORMAT_VERSION,
    check_folder,
    recorded_checkpoints,
    require_image_space,
    write_manifest,
)
from medcli.engine.plan_file import plan_file, write_plan
from medcli.engine.sample_folder import ARCHIVE, SampleFolder
from medcli.errors import ConfigError
from medcli.network import note_remarks, require_statistics
from medcli.runtime.device import use_device
from medcli.runtime.json_records import json_fields
from medcli.runtime.precision import DTYPES, TF32, number_format, products_of
from medcli.runtime.processes import Processes, this_process
from medcli.runtime.reporting import Reporter
from medcli.runtime.shared_work import missing_items
from medcli.runtime.versions import versions
from medcli.scores.reference import BUNDLED, bundled_info
from medcli.settings.records import given_values
from medcli.settings.sampling import SampleRequest, parse_shard
from medcli.workflows.sample.few_calls import hint_at_fewer_calls
from medcli.workflows.sample.generate import ImageGeneration
from medcli.workflows.sample.report import FolderRun, PassCosts, SampleReport
from medcli.workflows.sample.settings import SampleSetup, image_settings, model_name, set_up


def sample(request: SampleRequest, reporter: Reporter) -> SampleReport:
    """Generate the missing images of a request, together with any other process of the same command.

    Everything cheap is checked before anything slow: settings, autoencoder, folder, disk space; then weights load. Of
    the processes of a launch, rank 0 waits for the others, generates what lost processes left, and completes the
    folder; the others report the images that exist when they finish.

    Raises:
        MedcliError: For anything the user can fix; finished images are kept and the same request continues.
    """
    processes = this_process()
    if request.shard is not None:
        number, num_shards = parse_shard(request.shard)
        processes = replace(processes, shard=number, num_shards=num_shards)
    device = use_device(request.device, processes)
    request = replace(request, dtype=number_format(request.dtype, device))
    setup = set_up(request, device.type)
    note_remarks(setup.networks, reporter)
    if request.save_plan is not None and processes.is_first:
        write_plan(request.save_plan, plan_file(setup.plan, setup.config))
    dtype = DTYPES[request.dtype]
    require_statistics(setup.networks[0])
    decoder = open_decoder(setup.config, autoencoder=setup.networks[0].autoencoder, device=device, dtype=dtype)
    settings = image_settings(setup, request, earlier=recorded_checkpoints(setup.output))
    if decoder.content_id is not None:
        settings["autoencoder_id"] = decoder.content_id
    run = FolderRun.of(setup)
    is_possible = run.lines.is_possible
    is_continued = (setup.output / MANIFEST).exists()
    before = check_folder(setup.output, settings, is_possible)
    latents = SampledLatents.beside(
        setup.output, setup.config, is_asked=request.latents, has_images=bool(num_lines(setup.output))
    )
    if is_continued and before is None and processes.is_first:
        reporter.note(f"{setup.output / MANIFEST} was damaged and is written again from this command's settings")
    require_image_space(setup.output, request.num_images, setup.config.resolution_px, archive=request.npz)
    if processes.is_first:
        hint_at_fewer_calls(setup, request, reporter)

    def is_whole(record: Record) -> bool:
        return is_possible(record) and (latents is None or latents.holds(record.index))

    with SampleFolder(setup.output, processes, is_whole, side_px=setup.config.resolution_px) as folder:
        before = check_folder(setup.output, settings, is_possible)
        size = _batch_size(setup, request, before, processes, device)
        setup = replace(setup, plan=replace(setup.plan, batch_size=size))
        manifest = _manifest(setup, request, settings, before, device, run.costs)
        if before is None:  # lines of a run whose manifest was lost
            manifest["num_images"] = max(request.num_images, folder.num_done)
        if manifest != before and not (folder.work.is_alone or processes.is_divided):
            raise ConfigError(f"{setup.output} is being filled by a run to fewer images", hint="wait until it is done")
        num_before = folder.num_done
        if request.npz or (setup.output / ARCHIVE).exists():
            folder.fill_archive(manifest["num_images"], setup.config.resolution_px)

        def on_smaller_batch(size: int) -> None:
            if processes.is_first:
                halved = {"batch_size": size, "batch_size_halved_from": setup.plan.batch_size}
                write_manifest(setup.output, {**manifest, "run": {**manifest["run"], **halved}})

        how = (decoder, device, dtype, processes, reporter, on_smaller_batch, latents)
        generation = ImageGeneration(folder, setup, request, *how)
        with products_of(request.dtype):
            if before is None and num_before:
                generation.require_own_pictures()
            write_manifest(setup.output, manifest)
            is_last = generation.run()
        if not is_last:
            if processes.is_first and processes.num_shards == 1:
                raise missing_items(folder.num_missing(request.num_images), "images", setup.output)
            return replace(run.report(folder, folder.sessions), num_new=folder.num_made)
        if latents is not None:
            info = setup.networks[0].opened.info
            latents.complete(((record.index, record.label) for record in folder.records()), info.class_names)
        report = run.complete(folder, num_new=folder.num_done - num_before, npz=request.npz)
    if remark := unreached_counts(setup.plan.schedule, setup.plan.sampler, report.switch_steps):
        reporter.note(f"warning: {remark}")
    return report


def _batch_size(
    setup: SampleSetup,
    request: SampleRequest,
    before: dict[str, Any] | None,
    processes: Processes,
    device: torch.device,
) -> int:
    """Return the batch size: that of the run to continue, so that rounding agrees, else at most the new images.

    Without `--batch-size` a process's share of them is made in full batches.
    """
    if (
        before
        and before["num_images"] >= request.num_images
        and before["run"]["batch_size_asked"] == request.batch_size
    ):
        return int(before["run"]["batch_size"])
    num_new = request.num_images - (before["num_images"] if before else 0)
    if num_new <= 0:
        return setup.plan.batch_size
    if request.batch_size:
        return min(request.batch_size, num_new)
    share = -(-num_new // (processes.count * processes.num_shards))
    return even_batch_size(setup.plan, share, is_reduced=device.type != "cpu")


def _manifest(
    setup: SampleSetup,
    request: SampleRequest,
    settings: dict[str, Any],
    before: dict[str, Any] | None,
    device: torch.device,
    costs: PassCosts,
) -> dict[str, Any]:
    """Return the manifest of a new run, or of the run to continue, unchanged if no images are added."""
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
        **({"class_names": names} if (names := setup.class_names) else {}),
        "settings": settings,
        "run": {
            "batch_size": setup.plan.batch_size,
            "batch_size_asked": request.batch_size,
            "device": str(device),
            "compiled": request.compiled,
            "tf32": request.dtype == TF32,
            "gmacs": json_fields(costs),
            "given": given_values(request),
        },
        "versions": versions("numpy"),
        "sessions": before["sessions"] if before else [],
    }

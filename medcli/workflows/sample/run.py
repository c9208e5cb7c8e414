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
    processes = _processes(request)
    device = use_device(request.device, processes)
    request = replace(request, dtype=number_format(request.dtype, device))
    setup = set_up(request, device.type)
    note_remarks(setup.networks, reporter)
    if request.save_plan is not None and processes.is_first:
        write_plan(request.save_plan, plan_file(setup.plan, setup.config))
    require_statistics(network := setup.networks[0])
    decoder = open_decoder(setup.config, autoencoder=network.autoencoder, device=device, dtype=DTYPES[request.dtype])
    settings = image_settings(setup, request, earlier=recorded_checkpoints(setup.output))
    settings |= {} if decoder.content_id is None else {"autoencoder_id": decoder.content_id}
    run = FolderRun.of(setup)
    is_possible = run.lines.is_possible
    is_continued = (setup.output / MANIFEST).exists()
    before = check_folder(setup.output, settings, is_possible)
    has_images = bool(num_lines(setup.output))
    latents = SampledLatents.beside(setup.output, setup.config, is_asked=request.latents, has_images=has_images)
    require_image_space(setup.output, request.num_images, setup.config.resolution_px, archive=request.npz)
    if processes.is_first:
        if is_continued and before is None:
            reporter.note(f"{setup.output / MANIFEST} was damaged and is written again from this command's settings")
        hint_at_fewer_calls(setup, request, reporter)

    def is_whole(record: Record) -> bool:
        return is_possible(record) and (latents is None or latents.holds(record.index))

    with SampleFolder(setup.output, processes, is_whole, side_px=setup.config.resolution_px) as folder:
        before = check_folder(setup.output, settings, is_possible)
        setup = replace(
            setup, plan=replace(setup.plan, batch_size=_batch_size(setup, request, before, processes, device))
        )
        manifest = _manifest(setup, request, settings, before, device, run.costs, num_done=folder.num_done)
        if manifest != before and not (folder.work.is_alone or processes.is_divided):
            raise ConfigError(f"{setup.output} is being filled by a run to fewer images", hint="wait until it is done")
        num_before = folder.num_done
        if request.npz or (setup.output / ARCHIVE).exists():
            folder.fill_archive(manifest["num_images"], setup.config.resolution_px)
        how = (decoder, device, DTYPES[request.dtype], processes, reporter)
        generation = ImageGeneration(folder, setup, request, *how, latents=latents)
        is_last = _generate(generation, manifest, is_new=before is None)
        if not is_last:
            if processes.is_first and processes.num_shards == 1:
                raise missing_items(folder.num_missing(request.num_images), "images", setup.output)
            return replace(run.report(folder, folder.sessions), num_new=folder.num_made)
        if latents is not None:
            latents.complete(((each.index, each.label) for each in folder.records()), network.opened.info.class_names)
        report = run.complete(folder, num_new=folder.num_done - num_before, npz=request.npz)
    if remark := unreached_counts(setup.plan.schedule, setup.plan.sampler, report.switch_steps):
        reporter.warn(remark)
    return report


def _processes(request: SampleRequest) -> Processes:
    """Return the launch, with the shard that is asked for."""
    processes = this_process()
    if request.shard is None:
        return processes
    number, num_shards = parse_shard(request.shard)
    return replace(processes, shard=number, num_shards=num_shards)


def _generate(generation: ImageGeneration, manifest: dict[str, Any], *, is_new: bool) -> bool:
    """Write the manifest and generate the missing images; return True if this process completes the folder.

    Args:
        generation: This process's share.
        manifest: Of the whole run.
        is_new: The folder had no manifest: lines and pictures in it may be of other settings.
    """
    folder, output = generation.folder, generation.setup.output

    def on_smaller_batch(size: int) -> None:
        if generation.processes.is_first:
            halved = {"batch_size": size, "batch_size_halved_from": generation.setup.plan.batch_size}
            write_manifest(output, {**manifest, "run": {**manifest["run"], **halved}})

    with products_of(generation.request.dtype):
        if is_new and folder.num_done:
            generation.require_own_pictures()
        write_manifest(output, manifest)
        return replace(generation, on_smaller_batch=on_smaller_batch).run()


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
    *,
    num_done: int,
) -> dict[str, Any]:
    """Return the manifest of a new run, or of the run to continue, unchanged if no images are added.

    Args:
        num_done: Images in the folder: more than are asked for only if they are of a run whose manifest was lost.
    """
    if before and before["num_images"] >= request.num_images:
        return before
    info = setup.networks[0].opened.info
    reference = info.reference
    return {
        "format_version": FORMAT_VERSION,
        "num_images": request.num_images if before else max(request.num_images, num_done),
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

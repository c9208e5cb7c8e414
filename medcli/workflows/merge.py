"""Join sample folders of one run: the shards of a job array that had a folder each."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from filecmp import cmp
from os.path import realpath
from pathlib import Path
from typing import Any

from medcli.data.images import MANIFEST
from medcli.data.sampled_latents import FOLDER as LATENTS
from medcli.data.sampled_latents import row_name
from medcli.engine.image_records import Record, read_records, record_files
from medcli.engine.manifest import check_folder, read_checked, require_image_space, write_manifest
from medcli.engine.pictures import is_whole_png
from medcli.engine.sample_folder import SampleFolder
from medcli.engine.sessions import Session, read_sessions
from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.files import atomic_path
from medcli.runtime.json_records import InvalidJson, as_record
from medcli.runtime.reporting import Reporter
from medcli.settings.merging import MergeRequest
from medcli.workflows.sample.report import FolderRun, SampleReport

DEFAULT_OUTPUT = Path("samples/merged")


def merge(request: MergeRequest, reporter: Reporter) -> SampleReport:
    """Copy the images of all folders into one, and write its totals.

    Raises:
        ConfigError: If the folders are not of one run, or the output holds something else.
        DataError: If a folder is damaged, or images are missing in all of them; what there is has been copied then.
        EnvironmentProblem: If there is not enough room, or another process fills the output.
    """
    manifests = {source: _manifest(source) for source in request.folders}
    output = request.output or (request.folders[0] if len(request.folders) == 1 else DEFAULT_OUTPUT)
    first = manifests[request.folders[0]]
    for source in manifests:
        check_folder(source, first["settings"])
    runs = {source: _run_of(source, manifest) for source, manifest in manifests.items()}
    run = runs[request.folders[0]]
    for source, other in runs.items():
        if (other.side_px, other.costs) != (run.side_px, run.costs):
            raise DataError(
                f"{source / MANIFEST} and {request.folders[0] / MANIFEST} differ in the size or the cost of an image",
                hint="merge folders that one version of medcli wrote",
            )
    before = check_folder(output, first["settings"])
    num_images = max(manifest["num_images"] for manifest in [*manifests.values(), *([before] if before else [])])
    require_image_space(output, num_images, run.side_px, archive=request.npz)
    with SampleFolder(output, is_possible=run.lines.is_possible, side_px=run.side_px) as folder:
        if not folder.work.is_alone:
            raise EnvironmentProblem(f"{output} is being filled by another process", hint="wait until it is done")
        sources = [source for source in request.folders if realpath(source) != realpath(output)]
        sessions = _sessions([*([before] if before else []), *(manifests[source] for source in sources)], sources)
        recorded = [session.to_json() for session in sessions]
        kept = {name: value for name, value in (before or first).items() if name != "totals"}
        write_manifest(output, {**kept, "num_images": num_images, "sessions": recorded})
        num_before = folder.num_done
        others = {source: _copy(source, folder, run, num_images, reporter) for source in sources}
        if missing := folder.num_missing(num_images):
            raise DataError(
                f"{missing} of {num_images} images are in none of the folders; the others are in {output}",
                hint=f"the medcli sample command with -o {output} makes them",
            )
        if (output / LATENTS).is_dir():
            reporter.note(f"the medcli sample command with -o {output} completes {output / LATENTS}")
        report = run.complete(folder, num_new=folder.num_done - num_before, npz=request.npz, is_new=bool(sources))
    for source, number in others.items():
        if number:
            reporter.note(f"{number} images of {source} are other pictures in {output}, which are kept")
    return report


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_checked(folder)
    if manifest is None:
        raise DataError(f"{folder} holds no {MANIFEST}", hint="give folders that medcli sample wrote")
    return manifest


def _run_of(folder: Path, manifest: Mapping[str, Any]) -> FolderRun:
    try:
        return FolderRun.of_manifest(manifest)
    except InvalidJson as err:
        raise DataError(
            f"{folder / MANIFEST} is not of this version of medcli ({err})",
            hint="run the medcli sample command again in one folder",
        ) from err


def _sessions(manifests: Sequence[dict[str, Any]], folders: Sequence[Path]) -> list[Session]:
    """Return the sessions of manifests and of lines that are not merged yet, each once."""
    found = [as_record(Session, session) for manifest in manifests for session in manifest["sessions"]]
    for folder in folders:
        for file in record_files(folder)[1:]:
            found += read_sessions(file)
    return list(dict.fromkeys(found))


def _copy(source: Path, folder: SampleFolder, run: FolderRun, num_images: int, reporter: Reporter) -> int:
    """Copy the finished images of a folder that are missing in another; count those that it has as other pictures."""
    is_possible, num_others = run.lines.is_possible, 0

    def is_wanted(record: Record) -> bool:
        nonlocal num_others
        if not (is_possible(record) and is_whole_png(source / record.file, run.side_px)):
            return False
        if not folder.is_done(record.index):
            return True
        num_others += not cmp(source / record.file, folder.path / record.file, shallow=False)
        return False

    for record in filter(None, read_records(source, is_wanted)):
        names = [Path(record.file), Path(LATENTS) / row_name(record.index)]
        for name in (name for name in names if (source / name).is_file()):
            with atomic_path(folder.path / name, force=True, sweeps=False) as temporary:
                shutil.copyfile(source / name, temporary)
        folder.add_copied(record)
        reporter.progress(folder.num_done, num_images, "images")
    return num_others

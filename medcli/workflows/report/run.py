"""Write one HTML page of sample folders, scores, analyses and tunings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcli.data.images import MANIFEST
from medcli.errors import ConfigError, DataError
from medcli.pages.page import GENERATOR, Page, Section, Table, html_of
from medcli.runtime.files import refuse_existing, write_text
from medcli.runtime.json_records import json_fields
from medcli.runtime.reporting import Reporter
from medcli.settings.pages import ReportRequest
from medcli.settings.sampler import PAPER_STEPS
from medcli.version import __version__
from medcli.workflows.fid.compare import read_reports
from medcli.workflows.fid.inputs import SAMPLES_ROOT
from medcli.workflows.fid.kept import SCORES, kept_scores
from medcli.workflows.report.findings import SECTIONS
from medcli.workflows.report.json_access import Json, read_json, rounded
from medcli.workflows.report.opening import opening, title_of
from medcli.workflows.report.run_section import run_section, saving_text, schedule_in_words
from medcli.workflows.report.runs import SampledRun, read_run
from medcli.workflows.report.scores import score_sections

RESULTS = ("analysis.json", "tuning.json")
"""Files that folders of `analyze` and `tune` hold."""
HEAD_BYTES = 1000
"""Part of a page that names its generator."""
PAGE_SUFFIXES = (".html", ".htm")
HINT = "a page shows sample folders, reports of medcli fid --json and bench --json, and what analyze and tune wrote"


@dataclass(frozen=True, kw_only=True, slots=True)
class PageReport:
    """The written page."""

    output: str
    num_bytes: int
    sha256: str
    runs: tuple[str, ...]
    scores: tuple[str, ...]
    """Names of the sample sets whose scores are shown."""
    findings: tuple[str, ...]
    """Files of `analyze`, `tune` and `bench`."""
    lead: str
    """Contents, in numbers."""
    opening: tuple[str, ...]
    """Sentences it opens with."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json_fields(self, "output", "num_bytes", "sha256", "runs", "scores", "findings")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """Contents of the inputs, in order."""

    runs: list[SampledRun]
    scores: list[Json]
    findings: list[tuple[str, Json]]
    """Name and content of files with a known `kind`."""
    files: list[tuple[str, str]]
    """Name and hash of every JSON file but manifests."""


def report(request: ReportRequest, reporter: Reporter) -> PageReport:
    """Write the page; the same inputs under the same names give the same bytes.

    Raises:
        ConfigError: If the page exists and `force` is off.
        DataError: If an input is missing, damaged or of an unknown kind.
        EnvironmentProblem: If the page can't be written.
    """
    replaces = request.force or _is_page(request.output)
    refuse_existing(request.output, force=replaces, inputs=request.inputs)
    if request.output.is_file() and not _is_page(request.output) and request.output.suffix not in PAGE_SUFFIXES:
        raise ConfigError(f"{request.output} is no page and is not replaced", hint="choose another name with --output")
    found = _Found(runs=[], scores=[], findings=[], files=[])
    inputs = request.inputs or _sample_folders()
    for done, path in enumerate(inputs, 1):
        _read(path, found, request.num_pictures)
        reporter.progress(done, len(inputs), "inputs")
    found = replace(found, scores=_without_repeats(found.scores))
    page = _page(request, found)
    # A name of a file need not be UTF-8.
    html = html_of(page).encode("utf-8", "backslashreplace").decode("utf-8")
    write_text(request.output, html, force=replaces)
    content = html.encode("utf-8")
    return PageReport(
        output=str(request.output),
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        runs=tuple(run.name for run in found.runs),
        scores=tuple(row["samples"] for row in found.scores),
        findings=tuple(name for name, _ in found.findings),
        lead=page.lead,
        opening=page.opening,
    )


def _is_page(path: Path) -> bool:
    """Check for a page of this command, which the next one updates."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(HEAD_BYTES)


def _sample_folders() -> tuple[Path, ...]:
    folders = tuple(sorted(manifest.parent for manifest in SAMPLES_ROOT.glob(f"*/{MANIFEST}")))
    if not folders:
        raise DataError(
            f"nothing to show: no folder under ./{SAMPLES_ROOT} holds a {MANIFEST}",
            hint="run medcli sample first, or name folders and files: medcli report samples/a fid.json",
        )
    return folders


def _read(path: Path, found: _Found, num_pictures: int) -> None:
    """Recognise an input by its content, and read it."""
    if path.is_dir():
        results = [path / name for name in RESULTS if (path / name).is_file()]
        if (path / MANIFEST).is_file():
            found.runs.append(read_run(path, num_pictures))
            _add_kept(path, found)
        elif not results:
            raise DataError(f"{path} holds neither {MANIFEST} nor {', '.join(RESULTS)}", hint=HINT)
        for result in results:
            _read(result, found, num_pictures)
        return
    if path.name == MANIFEST:
        _read(path.parent, found, num_pictures)
        return
    content = read_json(path)
    kind = content.get("kind")
    if isinstance(kind, str) and kind in SECTIONS:
        found.findings.append((str(path), content))
    elif kind is not None:
        raise DataError(f"{path} is of the kind {str(kind)[:40]!r}, which no page shows", hint=HINT)
    else:
        found.scores.extend(read_reports(path))
    found.files.append((str(path), hashlib.sha256(path.read_bytes()).hexdigest()))


def _add_kept(folder: Path, found: _Found) -> None:
    """Add the scores kept in a sample folder."""
    if rows := kept_scores(folder):
        found.scores.extend(rows)
        found.files.append((str(folder / SCORES), hashlib.sha256((folder / SCORES).read_bytes()).hexdigest()))


def _without_repeats(scores: list[Json]) -> list[Json]:
    """Leave out reports that say the same of the same images, as a file of `medcli fid --json` and the kept scores."""
    seen: dict[str, Json] = {}
    for row in scores:
        same = {**row, "samples": str(Path(row["samples"]))}
        seen.setdefault(json.dumps(same, sort_keys=True), row)
    return list(seen.values())


def _page(request: ReportRequest, found: _Found) -> Page:
    sections: list[Section] = []
    if len(found.runs) > 1:
        sections.append(_overview(found.runs))
    if found.scores:
        sections += score_sections(found.scores, found.runs)
    sections += [run_section(run, f"run-{place}") for place, run in enumerate(found.runs, 1)]
    for place, (name, content) in enumerate(found.findings, 1):
        sections.append(SECTIONS[content["kind"]](name, content, f"finding-{place}"))
    if found.files:
        sections.append(_sources(found.files))
    return Page(
        title=request.title or title_of(found.runs, found.scores, found.findings),
        lead=_lead(found),
        opening=tuple(opening(found.runs, found.scores, found.findings)),
        sections=tuple(sections),
        footer=f"Written by medcli {__version__}. GMACs count a multiply-add once.",
    )


def _lead(found: _Found) -> str:
    parts: tuple[tuple[Sequence[object], str, str], ...] = (
        (found.runs, "run", "runs"),
        (found.scores, "scored set", "scored sets"),
        (found.findings, "analysis or tuning", "analyses and tunings"),
    )
    named = ((len(things), one if len(things) == 1 else several) for things, one, several in parts if things)
    return ", ".join(f"{num} {name}" for num, name in named) + "."


def _overview(runs: Sequence[SampledRun]) -> Section:
    rows = tuple(
        (
            run.name,
            schedule_in_words(run.run.schedule),
            f"{run.num_images:,}",
            rounded(run.total("nfe")),
            rounded(run.total("gmacs_per_image")),
            "-" if run.saved_percent is None else saving_text(run.saved_percent),
            _fewer(run.total("gmacs_per_image"), run.papers_gmacs),
            rounded(run.total("images_per_sec"), 3),
        )
        for run in runs
    )
    fewer = f"times fewer than dense, {PAPER_STEPS} steps"
    headings = ("run", "schedule", "images", "NFE", "GMACs per image", "saved %", fewer, "images per second")
    caption = "GMACs in the papers' convention, means over the images. Speed depends on the machine."
    table = Table(headings=headings, rows=rows, caption=caption, num_text_columns=2)
    return Section(title="Runs", anchor="runs", tables=(table,))


def _fewer(gmacs: float | None, papers: float | None) -> str:
    return rounded(papers / gmacs, 3) if gmacs and papers else "-"


def _sources(files: Sequence[tuple[str, str]]) -> Section:
    table = Table(headings=("file", "SHA-256"), rows=tuple(files), num_text_columns=2)
    return Section(title="Files", anchor="files", tables=(table,))

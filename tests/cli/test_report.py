"""`medcli report`: what a reader of the page gets, whatever the files hold."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from medcli.cli.app import main
from medcli.errors import ExitCode
from tests.conftest import RunCli

NUM_IMAGES, STEPS = 6, 12
HOSTILE = "<img src=x onerror=alert(1)>&\"'\u202e"
VOID = {"meta", "img"}
ATTRIBUTES = re.compile(
    r"lang|charset|name|content|http-equiv|id|class|href|src|alt|title|width|height|scope|role|tabindex|aria-[a-z]+"
    r"|viewbox|[xy]|d|transform|clip-path|xlink:href|style"
)
STYLE = re.compile(r"([a-z-]+: *([^;:()]|var\(--[a-z0-9]+\)|url\(#\w+\))+;? *)*")


class Reader(HTMLParser):
    """Takes a page apart, and fails on what a page must not hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.said: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        assert tag not in ("script", "link", "iframe", "object", "style") or (tag == "style" and not given)
        assert all(ATTRIBUTES.fullmatch(name) for name in given), given
        assert str(given.get("src", "data:image/")).startswith("data:image/")
        assert str(given.get("href", "#")).startswith("#")
        assert re.match(r"#|data:image/png;", str(given.get("xlink:href", "#")))
        assert STYLE.fullmatch(str(given.get("style", "")))
        assert re.fullmatch(r"url\(#\w+\)", str(given.get("clip-path", "url(#p)")))
        if tag == "img":
            assert given["alt"]
        if tag == "svg":
            assert given["aria-label"]
            self.said.append(str(given["aria-label"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dynamic and a static run, and their scores."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        size = ["--num-images", str(NUM_IMAGES), "--steps", str(STEPS), "-q"]
        assert main(["sample", "digits", "--schedule", "dynamic", "--rho", "0.9,0.8", *size]) == 0
        assert main(["sample", "digits", "--schedule", "static", "--mediators", "4", *size]) == 0
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(made / "samples", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


DYNAMIC, STATIC = Path("samples/digits-sit-dynamic-0"), Path("samples/digits-sit-static-0")


def read(run_cli: RunCli, *argv: Any) -> Reader:
    result = run_cli("report", *argv, "-o", "page.html", "--force")
    assert result.code == ExitCode.DONE, result.err
    return Reader(Path("page.html").read_text(encoding="utf-8"))


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def fid_report(path: Path, **values: Any) -> Path:
    row = {"protocol": "adm", "protocol_details": {}, "provenance": {}, "num_samples": 6, "reference": "digits"}
    row |= {"samples": str(DYNAMIC), "extractor": "digits", "fid": 12.5, "standard_errors": {"fid": 0.5}, **values}
    path.write_text(json.dumps(row))
    return path


ANALYSIS = {
    "kind": "medcli-analysis",
    "model": "tiny",
    "num_images": 4,
    "num_steps": 8,
    "layers": [0, 1],
    "progress": [0.0, 0.5],
    "redundancy": [[0.1, 0.2], [0.3, 0.4]],
    "latent_change": {"distances": {"l1": {"thresholds": [{"rho": 0.5, "share": 0.75, "mean_step": 3.5}]}}},
    "observations": {"redundant_early": {"holds": True, "text": "It is."}},
    "suggestion": {"layers": [0], "mediators": [1, 4], "reason": "few queries differ"},
    "convert": "medcli convert x.pt --layers 0 --mediators 1,4",
}
CANDIDATE = {"schedule": "timed", "ladder": [4, 0], "at": [0.5], "calls": 8, "gmacs": 1.5, "seconds": 0.25}
CANDIDATE |= {"error": 0.2}
TUNING = {
    "kind": "medcli-tuning",
    "model": "tiny",
    "budget": {"kind": "saving", "value": 20.0, "unit": "gmacs"},
    "metric": "error",
    "chosen": CANDIDATE,
    "dense": {**CANDIDATE, "schedule": "full", "ladder": [0], "at": [], "calls": 250, "gmacs": 40.0, "error": None},
    "command": "medcli sample --plan chosen/plan.json",
    "front": [CANDIDATE],
    "candidates": [CANDIDATE, {**CANDIDATE, "gmacs": 2.0, "error": 0.1, "schedule": "full"}],
}


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_run_alone_makes_a_whole_page(place: Path, run_cli: RunCli) -> None:
    page = read(run_cli, DYNAMIC, "--pictures", 4)
    assert page.tags.count("img") == 4
    assert page.tags.count("svg") == 2
    manifest = json.loads((DYNAMIC / "manifest.json").read_text())
    for wanted in ("1, 4, 16 mediators in turn, thresholds 0.9, 0.8 on L1 change", "sde, euler, 12 steps", "seed 0"):
        assert wanted in page.text
    assert manifest["settings"]["checkpoints"][0]["sha256"] in page.text
    moves = [line["switch_steps"] for line in map(json.loads, (DYNAMIC / "images.jsonl").read_text().splitlines())]
    first = [steps[0] for steps in moves if steps]
    said = f"1 to 4: {len(first)} of 6 images, mean step {sum(first) / len(first):.1f}"
    assert any(said in words for words in page.said)


def test_the_command_on_the_page_makes_the_very_run(place: Path, run_cli: RunCli) -> None:
    for folder in (DYNAMIC, STATIC):
        page = read(run_cli, folder)
        command = next(words for words in page.words if words.startswith("medcli sample"))
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        assert run_cli(shlex.split(command)[1:]).code == ExitCode.DONE  # other settings would be refused
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_the_costs_of_the_steps_add_up_to_that_of_the_image(place: Path) -> None:
    from medcli.workflows.report.runs import read_run

    for folder in (DYNAMIC, STATIC):
        run = read_run(folder, 0)
        costs = run.step_costs()
        assert costs
        assert len(costs[0]) == run.num_steps
        assert sum(costs[0]) == pytest.approx(run.total("gmacs_per_image"), rel=1e-8)
        assert sum(costs[1]) == pytest.approx(run.total("gmacs_dense"), rel=1e-12)
        assert run.papers_gmacs == pytest.approx(250 * costs[1][-1])


def test_records_are_counted_not_kept(place: Path, tmp_path: Path) -> None:
    from medcli.workflows.report.runs import read_run

    folder = shutil.copytree(DYNAMIC, tmp_path / "many")
    lines = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    made = [(3,), (3, 5), ()]
    more = [
        {**lines[0], "index": index, "file": f"{index:06d}.png", "switch_steps": made[index % 3]}
        for index in range(len(lines), 1500)
    ]
    for number in (10, 1400):
        shutil.copy(folder / "000000.png", folder / f"{number:06d}.png")
    (folder / "000001.png").unlink()
    lines = [*more, *lines[::-1]]  # as several processes write them
    (folder / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [picture.index for picture in read_run(folder, 2).pictures] == [0, 2]
    run = read_run(folder, 7)
    assert run.run.moves == Counter(tuple(line["switch_steps"]) for line in lines)  # a dozen entries at most
    assert run.num_images == 1500
    assert [picture.index for picture in run.pictures] == [0, 2, 3, 4, 5, 10, 1400]
    assert run.moves_to(2) == Counter(line["switch_steps"][1] for line in lines if len(line["switch_steps"]) > 1)


def test_all_of_samples_is_shown_unless_named_and_the_same_inputs_make_the_same_bytes(
    place: Path, run_cli: RunCli
) -> None:
    result = run_cli("report", "--json")
    assert result.code == ExitCode.DONE, result.err
    found = json.loads(result.out)
    assert found["runs"] == [str(DYNAMIC), str(STATIC)]
    first = Path("report.html").read_bytes()
    assert len(first) == found["num_bytes"]
    assert run_cli("report", "-o", "again/other.html").code == ExitCode.DONE
    assert Path("again/other.html").read_bytes() == first


def test_scores_stand_in_a_table_and_against_cost(place: Path, run_cli: RunCli) -> None:
    result = run_cli("fid", "--compare", DYNAMIC, STATIC, "--json")
    Path("scores.json").write_text(result.out)
    rows = json.loads(result.out)["rows"]
    page = read(run_cli, DYNAMIC, STATIC, "scores.json")
    for row in rows:
        assert f"{row['fid']:.2f} ± {row['standard_errors']['fid']:.2f}" in page.text
        assert row["provenance"]["samples_sha256"] in page.text
    assert any("FID against cost" in words and "digits-sit-static-0" in words for words in page.said)
    command = next(words for words in page.words if words.startswith("medcli fid"))
    again = run_cli(shlex.split(command)[1:])
    assert json.loads(again.out)["rows"] == rows


def test_scores_that_do_not_compare_are_shown_and_said_to_differ(place: Path, run_cli: RunCli) -> None:
    one, two = fid_report(Path("1.json")), fid_report(Path("2.json"), num_samples=7)
    page = read(run_cli, one, two)
    assert "do not compare: num_samples is 6" in page.text
    assert "*" not in page.text


def test_analyses_and_tunings_are_recognised_by_what_they_hold(place: Path, run_cli: RunCli) -> None:
    written(Path("an/analysis.json"), ANALYSIS)
    written(Path("t/tuning.json"), TUNING)
    page = read(run_cli, "an", "t")
    assert page.tags.count("svg") == 2
    for wanted in (
        "few queries differ",
        "0.5 75 % 3.5",
        "medcli convert x.pt --layers 0 --mediators 1,4",
        "budget saving 20",
        "medcli sample --plan chosen/plan.json",
        "dense 250 40 - 0.25 -",
        "8 calls: 4, full from 0.5 8 1.5 - 0.25 0.2",
    ):
        assert wanted in page.text
    assert "2 layers by 2 points of the way" in page.said[0]


def test_a_measurement_shows_plans_beside_the_papers_250_steps(place: Path, run_cli: RunCli) -> None:
    loop = {"group": "loop", "gmacs": 8.0, "seconds_per_image": 0.5, "ratio_to_dense": 1.0, "error": None}
    plan = {**loop, "title": "16, 12 calls", "gmacs": 0.25, "seconds_per_image": 0.02, "ratio_to_dense": 25.0}
    forward = {"group": "forward", "variant": "dense", "mediators": [], "gmacs": 0.03}
    rows = [forward, {**loop, "title": "full, 250 steps"}, {**plan, "error": 0.0123}]
    Path("bench.json").write_text(json.dumps({"kind": "medcli-bench", "model": "m", "machine": HOSTILE, "rows": rows}))
    page = read(run_cli, "bench.json", DYNAMIC, STATIC)
    assert "full, 250 steps 8 0.5 - 1 16, 12 calls 0.25 0.02 0.0123 25" in page.text
    assert "full attention 0.03" in page.text
    assert "times fewer than dense, 250 steps" in page.text
    Path("bench.json").write_text(json.dumps({"kind": "medcli-bench", "rows": 5}))
    assert run_cli("report", "bench.json", "-o", "none.html").code == ExitCode.DATA
    assert not Path("none.html").exists()


def test_the_command_of_an_analysis_makes_it_again(
    empty_folder: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for slow in ("draw_map", "draw_change"):
        monkeypatch.setattr(f"medcli.workflows.analyze.run.{slow}", lambda *_: None)
    size = ("--num-images", 2, "--steps", 8, "--points", 3, "--pairs", 50, "--rho", "0.9,0.5")
    assert run_cli("analyze", "digits", *size, "-o", "an").code == ExitCode.DONE
    page = read(run_cli, "an")
    assert json.loads(Path("an/analysis.json").read_text())["settings"]["checkpoints"][0]["sha256"] in page.text
    command = next(words for words in page.words if words.startswith("medcli analyze"))
    before = Path("an/analysis.json").read_bytes()
    shutil.rmtree("an")
    assert run_cli(shlex.split(command)[1:]).code == ExitCode.DONE
    assert Path("an/analysis.json").read_bytes() == before


def test_text_from_files_is_text_and_nothing_else(place: Path, run_cli: RunCli) -> None:
    folder = Path("samples") / HOSTILE.replace("/", "")
    STATIC.rename(folder)

    def change(manifest: dict[str, Any]) -> None:
        manifest["model"] = manifest["run"]["device"] = manifest["versions"]["torch"] = HOSTILE
        manifest["settings"]["checkpoints"][0] = {"file": HOSTILE, "sha256": HOSTILE}
        manifest["settings"]["autoencoder"] = manifest["settings"]["dtype"] = HOSTILE

    changed(folder / "manifest.json", change)
    row = fid_report(Path("1.json"), samples=str(folder), extractor=HOSTILE, provenance={"samples_sha256": HOSTILE})
    analysis = {**ANALYSIS, "model": HOSTILE, "convert": HOSTILE, "suggestion": {"reason": HOSTILE}}
    tuning = {**TUNING, "model": HOSTILE, "front": [{**CANDIDATE, "ladder": [HOSTILE], "at": HOSTILE}]}
    tuning |= {"command": HOSTILE, "dense": {"calls": HOSTILE}}
    files = [written(Path(f"{place}.json"), one) for place, one in enumerate((analysis, tuning))]
    page = read(run_cli, folder, row, *files, "--title", HOSTILE)  # the reader refuses tags and attributes
    assert "\u202e" not in Path("page.html").read_text(encoding="utf-8")
    assert page.text.count("<img src=x onerror=alert(1)>&") >= 10
    assert html.escape("<img src=x") in Path("page.html").read_text(encoding="utf-8")


ODD = ["", "<b>", None, True, [], {}, -1, 1e308, {"x": 1}]


@pytest.mark.parametrize("odd", ODD)
def test_values_of_odd_types_never_stop_a_page(place: Path, run_cli: RunCli, odd: object) -> None:
    changed(
        STATIC / "manifest.json", lambda manifest: manifest["totals"].update(dict.fromkeys(manifest["totals"], odd))
    )
    changed(STATIC / "manifest.json", lambda manifest: manifest.update(versions=odd, run=odd, model=odd))
    row = fid_report(Path("1.json"), fid=odd, standard_errors=odd, num_samples=odd, extractor=odd, reference=odd)
    kept = ("kind", "redundancy", "progress", "candidates", "rows")
    files = [
        written(Path(f"{place}.json"), {key: value if key in kept else odd for key, value in one.items()})
        for place, one in enumerate((ANALYSIS, TUNING))
    ]
    assert read(run_cli, STATIC, row, *files).tags.count("section") >= 5


def manifest_of(**settings: Any) -> Callable[[dict[str, Any]], object]:
    def change(manifest: dict[str, Any]) -> None:
        for path, value in settings.items():
            *outer, name = path.split("__")
            place = manifest["settings"]
            for key in outer:
                place = place[key]
            place[name] = value

    return change


@pytest.mark.parametrize("odd", ["x", None, [["x"]], {"scale": "x"}, -1, 10**18])
@pytest.mark.parametrize(
    "path",
    [
        *("guidance", "schedule", "sampler", "checkpoints", "labels", "seed", "weights", "schedule__kind"),
        *("schedule__counts", "schedule__rho", "schedule__warmup_steps", "schedule__distance", "sampler__steps"),
        *("sampler__solver", "sampler__last_step_size", "sampler__diffusion_norm"),
    ],
)
def test_hostile_manifests_never_end_in_a_traceback(place: Path, run_cli: RunCli, path: str, odd: object) -> None:
    changed(DYNAMIC / "manifest.json", manifest_of(**{path: odd}))
    result = run_cli("report", DYNAMIC, "--pictures", 0)
    assert result.code in (ExitCode.DONE, ExitCode.DATA), result
    assert len(result.err.splitlines()) <= 2 or result.code == ExitCode.DONE


@pytest.mark.parametrize("text", ["NaN", "1" + "0" * 400, "[" * 5000, '{"a": 1, "a": 2}', "", "\ud800", "{}x"])
@pytest.mark.parametrize("name", ["manifest.json", "../fid.json"])
def test_text_that_is_no_json_is_named(place: Path, run_cli: RunCli, name: str, text: str) -> None:
    (STATIC / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    message = refused(run_cli, ExitCode.DATA, STATIC / name if name.startswith("..") else STATIC)
    assert name.rpartition("/")[2] in message


@pytest.mark.parametrize(
    "line", ["NaN", "[" * 5000, '{"index": -1}', "\xff\xfe", "{}", '{"index": 1e99}', "null", "\0"]
)
def test_odd_lines_of_images_are_skipped(place: Path, run_cli: RunCli, line: str) -> None:
    with (DYNAMIC / "images.jsonl").open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    assert "Unfinished" not in read(run_cli, DYNAMIC).text


def test_scores_of_fewer_images_than_the_folder_holds_are_not_set_against_its_cost(
    place: Path, run_cli: RunCli
) -> None:
    page = read(run_cli, DYNAMIC, fid_report(Path("1.json"), num_samples=4))
    assert "are of 4 images, the folder holds 6" in page.text
    assert not any("FID against cost" in words for words in page.said)


def test_a_run_that_costs_more_than_full_attention_has_a_negative_saving(place: Path, run_cli: RunCli) -> None:
    changed(STATIC / "manifest.json", lambda manifest: manifest["totals"].update(gmacs_dense=0.3))
    gmacs = json.loads((STATIC / "manifest.json").read_text())["totals"]["gmacs_per_image"]
    assert read(run_cli, STATIC, DYNAMIC).text.count(f"{100 * (1 - gmacs / 0.3):.1f}") == 2


def test_an_unfinished_run_says_so_and_shows_what_is_there(place: Path, run_cli: RunCli) -> None:
    lines = (DYNAMIC / "images.jsonl").read_text().splitlines(keepends=True)
    (DYNAMIC / "images.jsonl").write_text("".join(lines[:4]) + lines[4][:10])
    changed(DYNAMIC / "manifest.json", lambda manifest: manifest.pop("totals"))
    page = read(run_cli, DYNAMIC)
    assert "Unfinished: 4 of 6 images exist." in page.text
    assert page.tags.count("img") == 4
    assert page.tags.count("svg") == 1  # what a step costs stands in the totals


def test_large_pictures_are_made_smaller(place: Path, run_cli: RunCli) -> None:
    from PIL import Image

    Image.effect_noise((512, 512), 90).convert("RGB").save(STATIC / "000000.png")
    read(run_cli, STATIC, "--pictures", 1)
    assert 1000 < Path("page.html").stat().st_size < 60_000


def refused(run_cli: RunCli, code: ExitCode, *argv: Any) -> str:
    result = run_cli("report", *argv)
    assert result.code == code, result
    assert result.out == ""
    lines = result.err.splitlines()
    assert [line.split(":")[0] for line in lines] in (["error"], ["error", "hint"])
    assert not list(Path().glob("*.html*"))
    assert not list(Path().glob(".*"))
    return result.err


def test_nothing_to_show_points_to_sample(empty_folder: Path, run_cli: RunCli) -> None:
    assert "run medcli sample first" in refused(run_cli, ExitCode.DATA)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.json", "{", "can't be read as JSON"),
        ("x.json", "[" * 100_000, "can't be read as JSON"),
        ("x.json", "[]", "does not hold a JSON object"),
        ("x.json", "{}", "no report of medcli fid"),
        ("x.json", '{"kind": "medcli-other"}', "of the kind 'medcli-other', which no page shows"),
        ("x.json", json.dumps({**ANALYSIS, "redundancy": [[0.1], [0.2, 0.3]]}), "is no layers by progress"),
        ("x.json", json.dumps({**ANALYSIS, "progress": [0.5, 0.0]}), "is no layers by progress"),
        ("x.json", json.dumps({**ANALYSIS, "redundancy": [["a", "b"]]}), "no list of numbers"),
        ("x.json", json.dumps({**TUNING, "candidates": []}), "no candidates"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    empty_folder: Path, run_cli: RunCli, name: str, content: str, said: str
) -> None:
    Path(name).write_text(content)
    message = refused(run_cli, ExitCode.DATA, name)
    assert said in message
    assert name in message


def test_missing_and_empty_places_are_named(empty_folder: Path, run_cli: RunCli) -> None:
    assert "no such file or folder: gone" in refused(run_cli, ExitCode.DATA, "gone")
    Path("empty").mkdir()
    assert "empty holds neither manifest.json nor" in refused(run_cli, ExitCode.DATA, "empty")


def test_a_page_of_this_command_is_updated_and_any_other_file_kept_unless_forced(place: Path, run_cli: RunCli) -> None:
    assert run_cli("report", STATIC).code == ExitCode.DONE
    assert run_cli("report", STATIC, "--title", "Second").code == ExitCode.DONE
    assert "Second" in Path("report.html").read_text(encoding="utf-8")
    Path("report.html").write_text("mine")
    result = run_cli("report", STATIC)
    assert result.code == ExitCode.USAGE
    assert Path("report.html").read_text() == "mine"
    assert run_cli("report", STATIC, "-f").code == ExitCode.DONE
    manifest = STATIC / "manifest.json"
    before = manifest.read_bytes()
    result = run_cli("report", STATIC, "-o", manifest, "-f")
    assert (result.code, "is no page and is not replaced" in result.err) == (ExitCode.USAGE, True)
    assert manifest.read_bytes() == before


def test_a_folder_whose_name_is_no_utf_8_is_shown(place: Path, run_cli: RunCli) -> None:
    named = os.fsdecode(b"samples/\xff")
    for folder in (DYNAMIC, STATIC):
        shutil.copytree(folder, f"{named}-{folder.name}")
    result = run_cli("report", *(f"{named}-{folder.name}" for folder in (DYNAMIC, STATIC)))
    assert result.code == ExitCode.DONE, result.err
    assert "\\udcff-" in Path("report.html").read_text(encoding="utf-8")


def test_scores_kept_by_fid_are_on_the_page_which_opens_with_them(place: Path, run_cli: RunCli) -> None:
    assert run_cli("fid", STATIC, "--metrics", "fid").code == ExitCode.DONE
    kept = json.loads((STATIC / "scores.json").read_text())["rows"]
    assert [set(row) & {"fid", "inception_score"} for row in kept] == [{"fid"}]
    first = json.loads(run_cli("fid", STATIC, "--metrics", "is", "--json").out)
    (row,) = json.loads((STATIC / "scores.json").read_text())["rows"]
    assert row["fid"] == kept[0]["fid"], "scores of the same images are merged"
    assert row["inception_score"] == first["inception_score"]
    moved = STATIC.rename(STATIC.with_name("moved"))
    shown = run_cli("report")
    text = Reader(Path("report.html").read_text(encoding="utf-8")).text
    for said in (f"FID of {moved}: {row['fid']:.2f}", f"Not scored: {DYNAMIC}", "class 3"):
        assert said in text
    assert f"FID of {moved}" in shown.out
    explicit = place / "again.json"
    explicit.write_text(json.dumps({**row, "samples": str(moved)}))
    assert "1 scored set." in read(run_cli, moved, explicit).text, "the same report is shown once"


def test_a_run_that_never_climbs_is_said_at_the_top(place: Path, run_cli: RunCli) -> None:
    words = ("--schedule", "dynamic", "--rho", "1e-6,1e-7", "--num-images", 2, "--steps", STEPS, "-q", "-o", "low")
    assert run_cli("sample", "digits", *words).out == "low\n"
    assert "In low no image ever reached 4 mediators." in read(run_cli, "low").text


def test_a_damaged_picture_leaves_no_page(place: Path, run_cli: RunCli) -> None:
    (STATIC / "000001.png").write_bytes(b"\x89PNG")
    assert "000001.png is not an image" in refused(run_cli, ExitCode.DATA, STATIC)


@pytest.mark.parametrize("moves", [[3, 2], [1, 2, 3], [10**9]])
def test_moves_that_can_not_be_are_refused(place: Path, run_cli: RunCli, moves: list[int]) -> None:
    line = {"index": 0, "label": 0, "file": "000000.png", "switch_steps": moves, "gmacs": 1.0}
    (DYNAMIC / "images.jsonl").write_text(json.dumps(line) + "\n")
    assert "do not go with its manifest" in refused(run_cli, ExitCode.DATA, DYNAMIC)


def test_a_manifest_of_absurd_steps_is_refused_before_they_are_counted(place: Path, run_cli: RunCli) -> None:
    changed(DYNAMIC / "manifest.json", lambda manifest: manifest["settings"]["sampler"].update(steps=10**12))
    assert "--steps must be at most 100000, got" in refused(run_cli, ExitCode.DATA, DYNAMIC)

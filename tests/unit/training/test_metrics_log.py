import json
from dataclasses import replace
from pathlib import Path

import pytest

from medcli.training.history import History, Row
from medcli.training.metrics_log import MetricsLog
from tests.unit.training.runs import RUN


def log_of(path: Path, num_steps: int = 40, log_every: int = 10) -> MetricsLog:
    return MetricsLog(path, replace(RUN, steps=num_steps, log_every=log_every))


@pytest.mark.parametrize(
    ("done", "num_steps", "kept"),
    [
        *((0, 40, []), (5, 40, []), (10, 40, [10]), (15, 40, [10]), (20, 40, [10, 20]), (25, 40, [10, 20])),
        *((30, 40, [10, 20, 25]), (25, 25, [10, 20, 25]), (25, 20, [10, 20, 25])),
    ],
)
def test_lines_beyond_the_steps_that_are_done_go(tmp_path, done, num_steps, kept):
    log = log_of(tmp_path / "metrics.jsonl", num_steps)
    for step in (10, 20, 25):
        log.add(History(done=step), step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n" + '{"step": 3')
    log.cut(done, done)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == kept


def test_a_line_is_of_the_steps_since_the_last_one(tmp_path):
    log, history = log_of(tmp_path / "metrics.jsonl"), History()
    for step in range(1, 16):
        history.done = step
        history.add(Row(step, (0,), float(step), 1.0), log.line_before(step))
    line = log.add(history, 15)
    assert (line["step"], line["loss"], line["grad_norm"], line["skipped"]) == (15, 13.0, 1.0, 0)
    assert log.mean("loss", history) == 13.0


def test_a_log_that_is_not_there_needs_no_cut(tmp_path):
    log_of(tmp_path / "metrics.jsonl").cut(0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_is_a_circle_of_links_or_a_folder_is_named_before_training(tmp_path: Path) -> None:
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("loop.jsonl", "folder.jsonl"):
        with pytest.raises(OSError, match=name):
            log_of(tmp_path / name).cut(4, 4)

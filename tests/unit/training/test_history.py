import json

import pytest

from medcli.training.history import MetricsLog


@pytest.mark.parametrize(
    ("done", "kept"), [(0, []), (5, []), (10, [10]), (15, [10]), (20, [10, 20]), (25, [10, 20]), (30, [10, 20, 25])]
)
def test_lines_beyond_the_steps_that_are_done_go(tmp_path, done, kept):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (10, 20, 25):
        log.add({"step": step, "loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')
    log.cut(done, 10)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == kept


def test_a_log_that_is_not_there_needs_no_cut(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl").cut(0, 10)
    assert list(tmp_path.iterdir()) == []

import json
from random import Random
from statistics import fmean
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcli.training import history
from medcli.training.history import History, MetricsLog, Row


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


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_a_line_is_the_mean_of_all_its_steps_however_many_are_kept(num_steps, log_every, seed):
    """Interrupted after every step; compared with the mean over all steps of the line."""
    random, losses = Random(seed), {}
    with patch.object(history, "KEPT_ROWS", 7):
        kept = History()
        for step in range(1, num_steps + 1):
            kept.done = step
            if random.random() < 0.8:
                losses[step] = (random.random(), random.random(), random.random())
                since = (step - 1) // log_every * log_every
                kept.add(Row(step, (0,), losses[step][0], losses[step][1], losses[step][2]), since)
            again = History.from_json(json.loads(json.dumps(kept.to_json())))
            assert again == kept
            since = (step - 1) // log_every * log_every
            own = [values for other, values in losses.items() if other > since]
            for number, name in enumerate(("loss", "grad_norm", "masked_loss")):
                wanted = fmean(values[number] for values in own) if own else None
                assert kept.mean(name, since) == (None if wanted is None else pytest.approx(wanted, rel=1e-12))
            full = kept.mean("full_loss", since)
            assert full == (pytest.approx(fmean(loss - masked for loss, _, masked in own), abs=1e-12) if own else None)

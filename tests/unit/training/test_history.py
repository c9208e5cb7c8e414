import json
from random import Random
from statistics import fmean
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcli.runtime.json_records import InvalidJson
from medcli.training import history
from medcli.training.history import BadStep, History, Row, Sums


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


def full_history():
    full = History(done=5, bad_steps=(BadStep(3, "the loss was nan", "image 2"),), unreadable=frozenset({7, 2}))
    full.resumed_from = {"checkpoint": "a", "step": 1, "changed": {"lr": [1, 2]}}
    full.dropped = Sums(3, 2, 1.0, 2.0, 3.0)
    full.rows.extend([Row(4, (0, 4), 1.5, 2.5), Row(5, (0,), 1.0, float("inf"), 0.5)])
    return full


def test_a_history_reads_back_as_it_was_written():
    assert History.from_json(json.loads(json.dumps(full_history().to_json()))) == full_history()
    assert set(History(done=2).to_json()) == {"done", "rows", "troubles"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("done", value) for value in ("x", -1, 10**30, None, 1.5, True, [])),
        *(
            ("rows", value)
            for value in ("x", [[1]], [[1, [0], "x", 1.0]], [[1, 0, 1.0, 1.0]], [[9, [0], 1.0, 1.0]], [{}])
        ),
        ("rows", [[2, [0], 1.0, 1.0], [1, [0], 1.0, 1.0]]),
        *(("troubles", value) for value in ({}, [1], [{"step": 1}], [{"step": "1", "what": "x"}])),
        *(("unreadable", value) for value in (1, ["x"], None)),
        ("resumed_from", 3),
        ("dropped", [1]),
        ("more", 1),
    ],
)
def test_a_journal_that_was_tampered_with_is_refused(key, value):
    values = json.loads(json.dumps(full_history().to_json()))
    with pytest.raises(InvalidJson):
        History.from_json({**values, key: value})

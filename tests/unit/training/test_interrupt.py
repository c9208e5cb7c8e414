import os
import signal
import threading
from pathlib import Path

import pytest

from tests.unit.training.runs import Told, last_state, run, same_average, same_tensors


def ask(number, *, after):
    """A listener that sends this process a signal when a step is logged."""
    return {"on_log": lambda line: os.kill(os.getpid(), number) if line["step"] == after else None}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_the_run_and_the_same_call_goes_on(tmp_path, number):
    straight = run(tmp_path / "a", steps=10, save_every=100, log_every=1)
    told, before = Told(), signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path / "b", told=told, steps=10, save_every=100, log_every=1, on=ask(number, after=4))
    assert signal.getsignal(number) is before
    stopped = int(last_state(tmp_path / "b").stem.split("-")[1])
    assert stopped in (4, 5)
    assert told.notes == [
        f"stopping after this step: it is saved in {tmp_path / 'b'}, and the same command resumes there; Ctrl-C again "
        "stops at once and keeps the last checkpoint"
    ]
    assert str(caught.value) == f"step {stopped} is saved; the same command resumes there"
    resumed = run(tmp_path / "b", steps=10, save_every=100, log_every=1)
    assert same_average(straight, resumed)
    assert same_tensors(last_state(tmp_path / "a"), last_state(tmp_path / "b"))
    assert not [path for path in (tmp_path / "b").iterdir() if path.name.startswith(".")]


def test_a_hangup_that_nohup_ignores_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = run(tmp_path, steps=6, save_every=100, log_every=1, on=ask(signal.SIGHUP, after=4))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.steps == 6


def test_a_run_that_was_started_over_names_the_option_to_leave_out(tmp_path):
    told = Told()
    with pytest.raises(KeyboardInterrupt, match="; the same command without --resume resumes there"):
        run(tmp_path, told=told, steps=9, log_every=1, resume="never", on=ask(signal.SIGTERM, after=4))
    assert "and the same command without --resume resumes there" in told.notes[-1]


def test_a_second_signal_is_obeyed_at_once(tmp_path):
    def ask_twice(line):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, steps=10, save_every=100, log_every=1, on={"on_log": ask_twice})
    assert last_state(tmp_path).name == "state-00000000.safetensors"


def test_handlers_come_back_after_a_run_that_ends_well_or_badly(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(tmp_path / "a", steps=1)

    def fail(line):
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        run(tmp_path / "b", steps=2, on={"on_log": fail})
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path: Path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, steps=2)))
    thread.start()
    thread.join()
    assert results[0].steps == 2

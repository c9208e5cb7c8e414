"""Answers to signals from a thread; Ctrl-C in a call that holds the main thread is in tests/cli/test_interrupt.py."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from medcli.runtime.interrupts import Answering


@pytest.fixture
def handled() -> None:
    """Python handlers that do nothing, as without any no number is written."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handled")
def test_the_first_of_its_signals_is_answered_once_and_others_are_not() -> None:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    answers, is_answered = [], threading.Event()
    answering = Answering([signal.SIGUSR1], lambda: (answers.append(1), is_answered.set()))
    os.kill(os.getpid(), signal.SIGUSR2)
    assert not is_answered.wait(0.05)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert is_answered.wait(10)
    os.kill(os.getpid(), signal.SIGUSR1)
    answering.close()
    assert answers == [1]
    assert signal.set_wakeup_fd(before) == before


@pytest.mark.usefixtures("handled")
def test_a_signal_just_before_the_end_is_still_answered() -> None:
    answers = []
    answering = Answering([signal.SIGUSR1], lambda: answers.append(1))
    os.kill(os.getpid(), signal.SIGUSR1)
    answering.close()
    assert answers == [1]

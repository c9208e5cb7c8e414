"""Ctrl-C during a long call that holds the main thread."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from medcli.cli.interrupt import ANSWER, answer_interrupts

BUSY = """
import hashlib, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
from medcli.cli.interrupt import answer_interrupts
answer_interrupts()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # a call that no signal interrupts, as a network's
"""


def test_the_first_is_answered_at_once_on_a_terminal() -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=follower, stderr=follower) as process:
        os.close(follower)
        seen = b""
        while b"ready" not in seen:
            seen += os.read(leader, 1024)
        time.sleep(0.5)  # until the call has begun
        process.send_signal(signal.SIGINT)
        while ANSWER.encode() not in seen:
            seen += os.read(leader, 1024)
        process.kill()
    os.close(leader)


def test_off_a_terminal_nothing_is_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    answer_interrupts()
    assert signal.set_wakeup_fd(before) == before

"""Stop requests by signal (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1), honoured at the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from medcli.runtime.interrupts import Answering
from medcli.training.distributed import Distributed

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
"""Signals that stop a run: SIGHUP comes from a terminal that closes, SIGUSR1 from schedulers before a time limit."""


class Interrupt:
    """Handler of stop signals inside its `with` block.

    Signals only reach the main thread; in others nothing is handled. A single process raises KeyboardInterrupt at once
    on a second signal; of several processes none does, since a launcher may repeat the signal.

    Args:
        distributed: Processes of the run; all stop after the same step.
        answer: Called from another thread as soon as the first signal arrives.
    """

    def __init__(self, distributed: Distributed, answer: Callable[[], None]) -> None:
        self._distributed, self._answer = distributed, answer
        self._answering: Answering | None = None
        self._has_signal = False
        self._before: dict[signal.Signals, Any] = {}
        # Requests are exchanged between CPUs, so that no device waits for them.
        self._group = None if distributed.is_alone else dist.new_group(backend="gloo")
        self._is_agreed = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            handled = [
                number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN
            ]  # nohup ignores one
            self._before = {number: signal.signal(number, self._handle) for number in handled}
            self._answering = Answering(handled, self._answer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._answering is not None:
            self._answering.close()
        for number, handler in self._before.items():
            if handler is not None:  # None: not set by Python
                signal.signal(number, handler)

    def exchange(self, *, has_failed: bool) -> bool:
        """Exchange requests and failures between all processes; each calls it before every step.

        Args:
            has_failed: This process can't do the step.

        Returns:
            True in all processes if any has failed.
        """
        if self._group is None:
            return has_failed
        flags = torch.tensor([has_failed, self._has_signal], dtype=torch.int32)
        dist.all_reduce(flags, dist.ReduceOp.MAX, self._group)
        any_failed, self._is_agreed = map(bool, flags.tolist())
        return any_failed

    def is_requested(self) -> bool:
        """Return whether to stop after this step, the same in all processes: of several, by the last `exchange`."""
        return self._has_signal if self._group is None else self._is_agreed

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._has_signal and self._distributed.is_alone:
            raise KeyboardInterrupt
        self._has_signal = True

"""Ctrl-C and SIGTERM, noticed at once and obeyed when a step is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from medcli.training.distributed import Distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Whether the run has been asked to stop, while the `with` block lasts.

    In any thread but the main one nothing is noticed: Python gives signals to that alone. A process that is alone obeys
    a second signal at once, with KeyboardInterrupt; a launcher may send several for one wish.

    Args:
        distributed: All processes must stop after the same step, or some would wait for others forever.
    """

    def __init__(self, distributed: Distributed) -> None:
        self._distributed = distributed
        self._is_asked = False
        self._before: dict[signal.Signals, Any] = {}
        # Wishes are exchanged between CPUs, beside what the devices exchange: no device waits for them.
        self._group = None if distributed.is_alone else dist.new_group(backend="gloo")
        self._exchanged: tuple[dist.Work, Tensor] | None = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._notice) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # None: whatever set it was not Python
                signal.signal(number, handler)

    def is_wanted(self) -> bool:
        """Whether to stop now. To be asked once a step by every process: all get the same answer.

        Where there are several, it is about the wishes of the step before, which have arrived meanwhile.
        """
        if self._group is None:
            return self._is_asked
        wanted = False
        if self._exchanged is not None:
            work, wish = self._exchanged
            work.wait()
            wanted = bool(wish.item())
        wish = torch.tensor([int(self._is_asked)])
        self._exchanged = dist.all_reduce(wish, dist.ReduceOp.MAX, self._group, async_op=True), wish
        return wanted

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked and self._distributed.is_alone:
            raise KeyboardInterrupt
        self._is_asked = True

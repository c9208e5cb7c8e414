"""Numbers on their way from a device to the host."""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """A copy on the CPU of a tensor on a device; on CUDA the host does other work until it needs the numbers.

    Work that is launched on the device in between is not waited for.
    """

    def __init__(self, values: Tensor) -> None:
        # On other devices such a copy could be read before it is complete.
        is_ahead = values.is_cuda
        self._values = values.to("cpu", non_blocking=is_ahead)  # into page-locked memory
        self._arrival = torch.cuda.current_stream(values.device).record_event() if is_ahead else None

    def wait(self) -> Tensor:
        """Return the numbers, once they have arrived."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._values

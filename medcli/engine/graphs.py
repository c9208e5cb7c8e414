"""Network calls as CUDA graphs: one launch in place of hundreds, for each shape of a batch.

A small batch is bound by the launching of its kernels: 244 to 1064 a network call. Batches have one shape, and nothing
inside the network waits for the device, so a call can be captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from medcli.engine.networks import LadderNetwork, Network

UNTIMED_CALLS = 2
"""Calls before the capture: compiled blocks and libraries set themselves up in the first."""


@dataclass(frozen=True, slots=True)
class _Captured:
    """A captured call."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    replay: Callable[[], None]


@dataclass(slots=True)
class GraphedNetwork:
    """A `Network` that captures its first call with each shape and replays it in later ones.

    What runs in Python during a call, such as hooks, runs at the capture only. A call that can't be captured makes all
    calls run as they are.
    """

    network: Network
    captured: dict[tuple[object, ...], _Captured] = field(default_factory=dict)
    is_capturable: bool = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the network's output, a tensor of the caller's own."""
        if not self.is_capturable or torch.is_grad_enabled():
            return self.network(*inputs)
        key = tuple((part.shape, part.dtype) for part in inputs)
        if key not in self.captured:
            try:
                self.captured[key] = _capture(self.network, inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                self.is_capturable = False
                return self.network(*inputs)
        made = self.captured[key]
        for place, given in zip(made.inputs, inputs, strict=True):
            place.copy_(given, non_blocking=True)
        made.replay()
        # The next replay overwrites it, and solvers keep outputs of earlier calls.
        return made.output.clone()


def graphed(network: LadderNetwork, device: torch.device) -> LadderNetwork:
    """Run a network's calls as CUDA graphs; on other devices it is returned as is.

    Args:
        network: The network; its weights may change in place only.
    """
    return replace(network, forward=GraphedNetwork(network.forward)) if device.type == "cuda" else network


def _capture(network: Network, inputs: tuple[Tensor, ...]) -> _Captured:
    """Capture a call on copies of its inputs."""
    own = tuple(part.clone() for part in inputs)
    device = own[0].device
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(UNTIMED_CALLS):
            network(*own)
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads decode meanwhile; by default their calls would spoil the capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = network(*own)
    return _Captured(own, output, graph.replay)

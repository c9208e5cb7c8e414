"""The book-keeping of captured calls; a capture needs a GPU (tests/gpu)."""

import pytest
import torch

from medcli.engine import graphs
from medcli.engine.graphs import GraphedNetwork, graphed
from medcli.engine.networks import ladder_networks
from tests.unit.engine.tiny import PIXELS, model_of


@pytest.fixture
def captures(monkeypatch):
    """Captured calls, as a GPU does it: inputs and the output have fixed places."""
    made = []

    def capture(network, inputs):
        own = tuple(part.clone() for part in inputs)
        output = network(*own)
        made.append(own)
        return graphs._Captured(own, output, lambda: output.copy_(network(*own)))

    monkeypatch.setattr(graphs, "_capture", capture)
    return made


def doubled(x, y):
    return 2 * x + y


def test_a_call_is_captured_once_for_each_shape_and_type(captures):
    network = GraphedNetwork(doubled)
    with torch.no_grad():
        for rows in (2, 3, 2):
            for start in (0.0, 1.0):
                x, y = torch.arange(rows) + start, torch.ones(rows)
                assert torch.equal(network(x, y), 2 * x + y)
        assert len(captures) == 2
        network(torch.zeros(2, dtype=torch.int64), torch.ones(2))
    assert len(captures) == 3


def test_an_output_is_not_overwritten_by_the_next_call(captures):
    network = GraphedNetwork(doubled)
    with torch.no_grad():
        first = network(torch.zeros(2), torch.ones(2))
        network(torch.ones(2), torch.ones(2))
    assert torch.equal(first, torch.ones(2))


def test_gradients_are_not_captured(captures):
    x = torch.ones(2, requires_grad=True)
    GraphedNetwork(doubled)(x, torch.ones(2)).sum().backward()
    assert torch.equal(x.grad, torch.full((2,), 2.0))
    assert not captures


@pytest.mark.parametrize("problem", [RuntimeError("operation not permitted when stream is capturing"), None])
def test_what_cannot_be_captured_runs_as_it_is_but_for_want_of_memory(monkeypatch, problem):
    def fails(network, inputs):
        raise problem or torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(graphs, "_capture", fails)
    network = GraphedNetwork(doubled)
    with torch.no_grad():
        if problem is None:
            with pytest.raises(torch.OutOfMemoryError):
                network(torch.ones(1), torch.ones(1))
            return
        assert [network(torch.ones(1), torch.ones(1)).item() for _ in range(2)] == [3.0, 3.0]


def test_only_a_gpu_has_graphs():
    (network,) = ladder_networks(model_of(PIXELS), (4,))
    assert graphed(network, torch.device("cpu")) is network
    assert isinstance(graphed(network, torch.device("cuda")).forward, GraphedNetwork)

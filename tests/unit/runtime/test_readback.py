"""Numbers read back from a device; on a pretended one they are wrong until they have been waited for."""

import torch

from medcli.runtime.readback import Readback
from tests.pretend.cuda import pretend_cuda


def test_numbers_of_the_cpu_are_there_at_once() -> None:
    values = torch.arange(3.0)
    assert Readback(values).wait() is values


def test_the_wait_is_for_what_was_launched_before() -> None:
    with pretend_cuda() as log:
        values = torch.arange(3.0).to("cuda")
        log.clear()
        readback = Readback(values)
        assert log.num_syncs == 0
        values.add_(1)
        assert readback.wait().tolist() == [0.0, 1.0, 2.0]
        assert log.num_syncs == 1
        assert log.overlaps == [1]

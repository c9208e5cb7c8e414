from dataclasses import replace

import pytest
import torch

from medcli.engine.batch_fit import fitting_batch_size
from medcli.engine.networks import Guidance, ladder_networks
from medcli.engine.plan import Labels, SamplingPlan
from medcli.schedule.spec import static
from medcli.settings.sampler import SamplerConfig
from tests.pretend.cuda import pretend_cuda
from tests.unit.engine.tiny import PIXELS, model_of

CUDA = torch.device("cuda")


def test_batches_are_halved_until_a_call_fits_the_memory(monkeypatch):
    plan = SamplingPlan(
        sampler=SamplerConfig(),
        schedule=static(4),
        labels=Labels(classes=(1,)),
        guidance=Guidance(scale=1.5),
        batch_size=12,
    )
    (network,), sizes = ladder_networks(model_of(PIXELS), (4,)), []

    def forward(latent_BCYX, t_B, label_B):
        assert latent_BCYX.device == t_B.device == label_B.device == torch.device("cuda", 0)
        sizes.append(len(latent_BCYX))
        if len(latent_BCYX) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return latent_BCYX

    small = replace(network, forward=forward)
    with pretend_cuda():
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        fits = 6
        assert fitting_batch_size([small], plan, CUDA) == 3
        assert sizes == [24, 12, 6]
        fits = 1
        with pytest.raises(torch.OutOfMemoryError):
            fitting_batch_size([small], plan, CUDA)
    assert fitting_batch_size([small], plan, torch.device("cpu")) == 12

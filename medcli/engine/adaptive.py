"""Adaptive solvers in the engine: fixed groups of images are integrated together.

dopri5 chooses its steps by the error of the whole batch, so an image's result depends, within the tolerance, on the
rest of the batch. Groups are therefore fixed: image i is always integrated with all images of group i // batch_size,
requested or not. An interruption changes nothing; another batch size does, within the tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from medcli.diffusion.adaptive import integrate_adaptive
from medcli.engine.networks import LadderNetwork, guided
from medcli.engine.plan import FinishedImage, Indices, Noise, SamplingPlan, diverged
from medcli.runtime.reporting import Reporter

# Dimension key: B images of a group, C latent channels, Y X latent height and width.


def integrate_groups(
    network: LadderNetwork, plan: SamplingPlan, indices: Indices, device: torch.device, noise: Noise, reporter: Reporter
) -> Iterator[FinishedImage]:
    """Generate images group by group.

    Args:
        plan: Sampling settings with an adaptive solver.
        indices: Numbers of the images to generate, those of a group consecutive.
        noise: Source of the initial states.

    Yields:
        The requested images, one group at a time.
    """
    size, done = plan.batch_size, 0
    for group, members in groupby(indices, key=lambda index: index // size):
        wanted = set(members)
        index_B = torch.arange(group * size, (group + 1) * size)
        label_B = plan.labels.of(plan.seed, index_B)
        try:
            latent_BCYX, calls = _integrate(network, plan, index_B.to(device), label_B.to(device), noise)
        except AssertionError as err:  # torchdiffeq's way to say that its step size became 0 or NaN
            raise diverged(min(wanted), f"or changes too fast for {plan.sampler.solver}") from err
        null_calls = (calls,) if plan.guidance.is_on else ()
        for index, label, latent_CYX in zip(index_B.tolist(), label_B.tolist(), latent_BCYX, strict=True):
            if index in wanted and not latent_CYX.isfinite().all():
                raise diverged(index, f"in {calls} calls of {plan.sampler.solver}")
            if index in wanted:
                yield FinishedImage(index, label, latent_CYX, (), (calls,), null_calls)
        done += len(wanted)
        reporter.progress(done, len(indices), "images")


@torch.no_grad()
def _integrate(
    network: LadderNetwork, plan: SamplingPlan, index_B: Tensor, label_B: Tensor, noise: Noise
) -> tuple[Tensor, int]:
    """Return the final states (B, C, Y, X) and the number of network calls."""
    predict, calls = guided(network, label_B, plan.guidance), 0

    def counted(x_BCYX: Tensor, t_B: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return predict(x_BCYX, t_B)

    latent_BCYX = integrate_adaptive(counted, noise(index_B, torch.zeros_like(index_B)), plan.sampler)
    return latent_BCYX, calls

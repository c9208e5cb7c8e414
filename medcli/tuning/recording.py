"""Record the dense parent's trajectories, and measure one step of other networks from each state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcli.diffusion.steps import Sampler, build_sampler
from medcli.engine.batched_rule import distance
from medcli.engine.guidance_phases import Phase, phases
from medcli.engine.networks import Guidance, LadderNetwork, guided
from medcli.engine.plan import Noise, SamplingPlan, latent_shape_of, philox_noise
from medcli.errors import CheckpointError
from medcli.runtime.files import atomic_path, reserve
from medcli.schedule.spec import DistanceName
from medcli.tuning.space import NetworkVariant
from medcli.tuning.tables import ChangeTable

# Dimension key: B images of a batch, K solver steps, C latent channels, Y X latent height and width.


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepper:
    """Solver step of a batch whose images are all at the same step, as in the engine."""

    plan: SamplingPlan
    sampler: Sampler
    noise: Noise
    phase_K: Tensor
    device: torch.device

    @classmethod
    def of(cls, plan: SamplingPlan, dense: LadderNetwork, device: torch.device) -> Stepper:
        """Build the stepper of a plan with a solver of fixed steps."""
        sampler = build_sampler(plan.sampler, device=device)
        return cls(
            plan=plan,
            sampler=sampler,
            noise=philox_noise(plan.seed, latent_shape_of(dense)),
            phase_K=phases(plan.guidance, sampler),
            device=device,
        )

    @torch.no_grad()
    def start(self, numbers: range) -> Tensor:
        """Draw the (B, C, Y, X) initial noise of some images."""
        index_B = torch.tensor(numbers, device=self.device)
        return self.noise(index_B, torch.zeros_like(index_B))

    @torch.no_grad()
    def step(
        self, network: LadderNetwork, state_BCYX: Tensor, numbers: range, step: int, memory_BMCYX: Tensor | None = None
    ) -> Tensor:
        """Return the states after one step.

        Args:
            network: The network.
            state_BCYX: Current states.
            numbers: Image indices, which determine noise and labels.
            step: Step number, from 0.
            memory_BMCYX: Slopes of earlier steps, for a multistep solver; updated in place.
        """
        index_B = torch.tensor(numbers, device=self.device)
        step_B = torch.full_like(index_B, step)
        noise_BCYX = self.noise(index_B, step_B + 1) if self.sampler.takes_noise(step) else None
        guidance = self.plan.guidance if self.phase_K[step] == Phase.INSIDE else Guidance()
        predict = guided(network, self.plan.labels.of(self.plan.seed, index_B), guidance)
        num_calls = self.sampler.calls(step)
        if memory_BMCYX is None:
            return self.sampler.step(predict, state_BCYX, step_B, noise_BCYX, num_calls=num_calls)
        return self.sampler.step(
            predict, state_BCYX, step_B, noise_BCYX, num_calls=num_calls, memory_BMCYX=memory_BMCYX
        )


def record_parent(path: Path, stepper: Stepper, dense: LadderNetwork, numbers: range) -> None:
    """Write every state of some images under full attention to a file: float32 (K + 1, B, (1 + M) C, Y, X).

    The first C channels are the state, the others the M slopes that a multistep solver remembers there.

    Only one state is in memory at a time.
    """
    state_BCYX = stepper.start(numbers)
    batch, channels, *grid = state_BCYX.shape
    memory_BMCYX = state_BCYX.new_zeros(batch, stepper.sampler.num_remembered, channels, *grid)
    shape = (stepper.sampler.num_steps + 1, batch, (1 + memory_BMCYX.shape[1]) * channels, *grid)

    def joint() -> npt.NDArray[np.float32]:
        return torch.cat([state_BCYX, memory_BMCYX.flatten(1, 2)], dim=1).cpu().numpy()

    with atomic_path(path, force=True) as temporary:
        kept = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        reserve(temporary, temporary.stat().st_size)  # or a full disk would kill the process with SIGBUS
        kept[0] = joint()
        for step in range(stepper.sampler.num_steps):
            state_BCYX = stepper.step(dense, state_BCYX, numbers, step, memory_BMCYX if memory_BMCYX.numel() else None)
            require_finite(state_BCYX, numbers, "full attention")
            kept[step + 1] = joint()
        kept.flush()


def require_finite(state_BCYX: Tensor, numbers: range, what: str) -> None:
    """Check that sampling has not diverged.

    Raises:
        CheckpointError: If a state is not finite; names the image and the network.
    """
    finite_B = torch.isfinite(state_BCYX).flatten(1).all(dim=1).tolist()
    for number, is_finite in zip(numbers, finite_B, strict=True):
        if not is_finite:
            raise CheckpointError(
                f"image {number} becomes NaN or infinity with {what}: the solver diverges on this model",
                hint="try --dtype fp32, more --steps or another --solver; check --family and --prediction",
            )


def measure_steps(
    states_KBCYX: npt.NDArray[np.float32],
    stepper: Stepper,
    variant: NetworkVariant,
    network: LadderNetwork,
    numbers: range,
    every: int = 1,
) -> ChangeTable:
    """Measure one step of a network from each state of the parent.

    Args:
        states_KBCYX: All states of these images, written by `record_parent`.
        stepper: The same as there.
        variant: Layers and count of the network, for errors.
        network: The network.
        numbers: Image indices.
        every: Measure every `every`-th step.
    """
    names: tuple[DistanceName, ...] = get_args(DistanceName)
    rows: list[Tensor] = []
    for step in range(0, stepper.sampler.num_steps, every):
        before_BCYX, parent_BCYX = (torch.from_numpy(states_KBCYX[place].copy()) for place in (step, step + 1))
        size = before_BCYX.shape[1] // (1 + stepper.sampler.num_remembered)
        before_BCYX, memory_BXYX = before_BCYX.to(stepper.device).split([size, before_BCYX.shape[1] - size], dim=1)
        parent_BCYX = parent_BCYX[:, :size].to(stepper.device)
        memory_BMCYX = memory_BXYX.unflatten(1, (-1, size)).clone() if memory_BXYX.shape[1] else None
        after_BCYX = stepper.step(network, before_BCYX, numbers, step, memory_BMCYX)
        error_B = (after_BCYX - parent_BCYX).flatten(1).norm(dim=1)
        changes = (distance(name, before_BCYX, after_BCYX) for name in names)
        row_VB = torch.stack([error_B, *changes]).double().cpu()
        require_finite(row_VB.T, numbers, variant.words)
        rows.append(row_VB)
    return ChangeTable(torch.stack(rows, dim=1).numpy())


def joined(tables: list[ChangeTable]) -> ChangeTable:
    """Concatenate the tables of several batches."""
    return ChangeTable(np.concatenate([table.values_VKI for table in tables], axis=2))

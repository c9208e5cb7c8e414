"""Fit times and weights of a multistep solver to recorded paths of the dense parent.

The times are the shortest path over the recorded ones, where an edge costs the mean error of one first-order step. The
weights of each step then are least squares towards the recorded states along the plan's own path, drawn towards the
solver's own weights.

Source: formulas F5 of plan-facts; NeuralSolver (arXiv 2505.21114) learns the same numbers by gradient descent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcli.diffusion.gaussian import NUM_TRAIN_TIMESTEPS, gaussian_tables
from medcli.diffusion.intervals import ode_interval
from medcli.diffusion.multistep import MultistepRows, MultistepWeights, multistep_rows
from medcli.diffusion.steps import Sampler, build_sampler
from medcli.engine.guidance_phases import Phase, phases
from medcli.engine.networks import Guidance, LadderNetwork, guided, ladder_networks
from medcli.engine.plan import SamplingPlan, latent_shape_of, philox_noise
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.reporting import Reporter
from medcli.settings.sampler import SamplerConfig

# Dimension key: T recorded times, I images, F numbers of a state, L steps, J slopes of a step, C Y X latent.

Floats = npt.NDArray[np.float64]

NUM_SLOPES = 3
"""Slopes of a fitted step at most."""
RIDGE = 1e-3
"""Weight of the solver's own coefficients, relative to the slopes' mean energy."""


@dataclass(frozen=True, slots=True)
class Path:
    """States and slopes of the dense parent along its fine path."""

    time_T: Floats
    """Times of the network calls, and the end of the path."""
    state_TIF: Tensor
    """State at each of these times, float32 on the CPU."""
    slope_TIF: Tensor
    """Slope at each time but the end: velocities of the ODE, data predictions of the other families."""


class Stepper:
    """Network calls of a plan for images that are all at the same step.

    Args:
        model: Holds the plan's counts, on the device.
        plan: A plan of a multistep solver.
    """

    def __init__(self, model: DiffusionTransformer, plan: SamplingPlan, device: torch.device) -> None:
        self.sampler: Sampler = build_sampler(plan.sampler, device=device, rows=plan.rows)
        self._plan, self._device = plan, device
        self._networks = ladder_networks(model, plan.schedule.counts)
        self._phase_L = phases(plan.guidance, self.sampler)

    @torch.no_grad()
    def start(self, numbers: range) -> Tensor:
        """Return the (I, F) initial noise of images."""
        index_I = torch.tensor(numbers, device=self._device)
        return self._noise(index_I).flatten(1).cpu()

    @torch.no_grad()
    def step(self, state_IF: Tensor, numbers: range, step: int, memory_IJF: Tensor) -> tuple[Tensor, Tensor]:
        """Make one network call for each image; returns the (I, F) next states and this step's slopes.

        Args:
            state_IF: States.
            numbers: Image indices.
            step: Step number.
            memory_IJF: Slopes of earlier steps, the newest first, as many as the solver remembers.
        """
        size, done = self._plan.batch_size, []
        for first in range(0, len(numbers), size):
            rows = slice(first, first + size)
            done.append(self._batch(state_IF[rows], numbers[rows], step, memory_IJF[rows]))
        after, slopes = zip(*done, strict=True)
        return torch.cat(after), torch.cat(slopes)

    def _batch(self, state_BF: Tensor, numbers: range, step: int, memory_BJF: Tensor) -> tuple[Tensor, Tensor]:
        plan, shape = self._plan, latent_shape_of(self._networks[0])
        index_B = torch.tensor(numbers, device=self._device)
        guidance = plan.guidance if self._phase_L[step] == Phase.INSIDE else Guidance()
        predict = guided(self._network(step), plan.labels.of(plan.seed, index_B), guidance)
        memory = memory_BJF.to(self._device).unflatten(2, shape).clone()
        after = self.sampler.step(
            predict,
            state_BF.to(self._device).unflatten(1, shape),
            torch.full_like(index_B, step),
            None,
            num_calls=1,
            memory_BMCYX=memory,
        )
        return after.flatten(1).cpu(), memory[:, 0].flatten(1).cpu()

    def _network(self, step: int) -> LadderNetwork:
        return self._networks[self._plan.schedule.index_at(step, self.sampler.num_steps)]

    def _noise(self, index_I: Tensor) -> Tensor:
        return philox_noise(self._plan.seed, latent_shape_of(self._networks[0]))(index_I, torch.zeros_like(index_I))


def record_path(
    model: DiffusionTransformer,
    fine: SamplingPlan,
    numbers: range,
    device: torch.device,
    reporter: Reporter,
) -> Path:
    """Record the fine path of the dense parent.

    Args:
        fine: A plan of a multistep solver and many calls, full attention.
        numbers: Image indices.
    """
    stepper = Stepper(model, fine, device)
    state_IF, num_steps = stepper.start(numbers), stepper.sampler.num_steps
    memory_IJF = state_IF.new_zeros(len(numbers), stepper.sampler.num_remembered, state_IF.shape[1])
    states, slopes = list[Tensor](), list[Tensor]()
    for step in range(num_steps):
        after_IF, slope_IF = stepper.step(state_IF, numbers, step, memory_IJF)
        states.append(state_IF)
        slopes.append(slope_IF)
        memory_IJF = torch.cat([slope_IF[:, None], memory_IJF[:, :-1]], dim=1)
        state_IF = after_IF
        reporter.progress(step + 1, num_steps, "recorded steps")
    time_T = np.append(multistep_rows(fine.sampler).time_L, end_of(fine.sampler))
    return Path(time_T, torch.stack([*states, state_IF]), torch.stack(slopes))


def end_of(config: SamplerConfig) -> float:
    """Return the time at which a multistep solver's path ends."""
    return ode_interval(config.path, config.prediction)[1] if config.sampler == "ode" else -1.0


def first_order(config: SamplerConfig) -> Callable[[float, float], tuple[float, float]]:
    """Return the function that gives the factors of state and slope of a first-order step between two times.

    Slopes are those of `medcli.diffusion.multistep`; a time of -1 is DiT's clean data.

    Args:
        config: Sampler `ode` or `ddim`.
    """
    if config.sampler == "ode":
        return lambda start, end: (1.0, end - start)
    abar = gaussian_tables(range(NUM_TRAIN_TIMESTEPS)).alphas_cumprod.tolist()

    def step(start: float, end: float) -> tuple[float, float]:
        before, after = (1.0 if time < 0 else abar[int(time)] for time in (start, end))
        state = ((1 - after) / (1 - before)) ** 0.5
        return state, after**0.5 - state * before**0.5

    return step


def best_times(path: Path, config: SamplerConfig, num_steps: int) -> list[int]:
    """Choose the recorded times of which first-order steps follow the recorded path best; O(T^2 (I F + L)).

    Args:
        path: The recorded path; needs more times than steps.
        num_steps: Number of steps.

    Returns:
        Rising places in `path.time_T` of the steps' calls; the first is 0.
    """
    num, step_of = len(path.time_T), first_order(config)
    cost_TT = np.full((num, num), np.inf)
    for i in range(num - 1):
        for j in range(i + 1, num):
            state, weight = step_of(path.time_T[i], path.time_T[j])
            missed_IF = path.state_TIF[j] - state * path.state_TIF[i] - weight * path.slope_TIF[i]
            cost_TT[i, j] = float(missed_IF.norm(dim=1).mean())
    best_T, came_from = cost_TT[0], list[npt.NDArray[np.int64]]()
    for _ in range(num_steps - 1):
        through_TT = best_T[:, None] + cost_TT
        came_from.append(through_TT.argmin(axis=0))
        best_T = through_TT.min(axis=0)
    places, place = list[int](), num - 1
    for previous in reversed(came_from):
        place = int(previous[place])
        places.append(place)
    return [0, *reversed(places)]


def fitted_rows(
    model: DiffusionTransformer,
    plan: SamplingPlan,
    path: Path,
    numbers: range,
    device: torch.device,
    reporter: Reporter,
) -> MultistepRows:
    """Fit times and weights of a plan.

    Args:
        plan: A plan of a multistep solver; its networks and guidance by step are kept.
        path: The dense parent's path of the same images, of more times than the plan has steps.
        numbers: Their indices.
    """
    places = best_times(path, plan.sampler, plan.sampler.steps)
    own = multistep_rows(plan.sampler, path.time_T[places])
    weights = own.weights
    given_LJ = np.zeros((len(places), NUM_SLOPES))
    width = min(NUM_SLOPES, weights.weight_LJ.shape[1])
    given_LJ[:, :width] = weights.weight_LJ[:, :width]
    stepper = Stepper(model, replace(plan, rows=own), device)
    state_IF, slopes, fitted_LJ = path.state_TIF[0].double(), list[Tensor](), np.zeros_like(given_LJ)
    for step, after in enumerate([*places[1:], len(path.time_T) - 1]):
        blank = torch.zeros(len(numbers), stepper.sampler.num_remembered, state_IF.shape[1])
        _, slope_IF = stepper.step(state_IF.float(), numbers, step, blank)
        slopes = [slope_IF.double(), *slopes][:NUM_SLOPES]
        kept_IF = float(weights.state_L[step]) * state_IF
        found = _least_squares(torch.stack(slopes), path.state_TIF[after].double() - kept_IF, given_LJ[step])
        fitted_LJ[step, : len(slopes)] = found
        state_IF = kept_IF + torch.einsum("j,jif->if", torch.from_numpy(found), torch.stack(slopes))
        reporter.progress(step + 1, len(places), "fitted steps")
    return MultistepRows(own.time_L, MultistepWeights(weights.state_L, fitted_LJ, weights.noise_L))


def _least_squares(slope_JIF: Tensor, target_IF: Tensor, given_J: Floats) -> Floats:
    """Return the weights of the slopes nearest to the target, drawn towards given ones."""
    q_JN, num = slope_JIF.flatten(1), len(slope_JIF)
    gram_JJ = q_JN @ q_JN.T
    ridge = RIDGE * gram_JJ.trace() / num
    given = torch.from_numpy(given_J[:num].copy())
    pulled_JJ = gram_JJ + ridge * torch.eye(num, dtype=torch.float64)
    found: Floats = torch.linalg.solve(pulled_JJ, q_JN @ target_IF.flatten() + ridge * given).numpy()
    return found

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medcli.diffusion.gaussian import gaussian_tables
from medcli.diffusion.interpolant import diffusion_of, path_point
from medcli.diffusion.multistep import (
    MultistepRows,
    MultistepWeights,
    adams_weights,
    exponential_weights,
    gaussian_weights,
    lagrange,
    multistep_rows,
)
from medcli.diffusion.steps import build_sampler
from medcli.settings.sampler import DiffusionForm, PathName, SamplerConfig
from tests.unit.diffusion.gaussian_data import STD, exact_network, standard_normal

UNEVEN = np.array([0.2, 0.35, 0.5, 0.7, 1.0])
ABAR = gaussian_tables(range(1000)).alphas_cumprod.numpy()

sizes = st.lists(st.floats(0.01, 0.3), min_size=3, max_size=6)


@given(sizes)
def test_adams_weights_of_any_grid_are_the_closed_forms(steps: list[float]) -> None:
    weight_LJ = adams_weights(np.cumsum([0.0, *steps]), 3).weight_LJ
    assert weight_LJ[0] == pytest.approx([steps[0], 0, 0], abs=1e-12)
    h1, h = steps[0], steps[1]
    assert weight_LJ[1] == pytest.approx([h + h * h / (2 * h1), -h * h / (2 * h1), 0], abs=1e-12)
    for step in range(2, len(steps)):
        h2, h1, h = steps[step - 2 : step + 1]
        expected = [
            h + h * h * (2 * h1 + h2) / (2 * h1 * (h1 + h2)) + h**3 / (3 * h1 * (h1 + h2)),
            -(h * h * (h1 + h2) / 2 + h**3 / 3) / (h1 * h2),
            (h * h * h1 / 2 + h**3 / 3) / (h2 * (h1 + h2)),
        ]
        assert weight_LJ[step] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_adams_on_an_even_grid_has_the_textbook_weights() -> None:
    weight_LJ = adams_weights(np.linspace(0, 1, 9), 4).weight_LJ * 8
    assert weight_LJ[1, :2] == pytest.approx([3 / 2, -1 / 2], abs=1e-12)
    assert weight_LJ[2, :3] == pytest.approx([23 / 12, -16 / 12, 5 / 12], abs=1e-12)
    assert weight_LJ[5] == pytest.approx([55 / 24, -59 / 24, 37 / 24, -9 / 24], abs=1e-12)


def mixture_velocity(x: float, t: float) -> float:
    """Velocity of the linear path for data from two Gaussians."""
    weights, means, variance = np.array([0.4, 0.6]), np.array([-0.9, 1.1]), 0.16
    total = t * t * variance + (1 - t) ** 2
    responsibility = weights * np.exp(-((x - t * means) ** 2) / (2 * total))
    responsibility = responsibility / responsibility.sum()
    data = means + t * variance / total * (x - t * means)
    noise = (1 - t) / total * (x - t * means)
    return float((responsibility * (data - noise)).sum())


def exact_path(x: float, grid: np.ndarray, substeps: int = 8) -> list[float]:
    path = [x]
    for start, end in zip(grid[:-1], grid[1:], strict=True):
        h = (end - start) / substeps
        for part in range(substeps):
            t = start + part * h
            k1 = mixture_velocity(x, t)
            k2 = mixture_velocity(x + h / 2 * k1, t + h / 2)
            k3 = mixture_velocity(x + h / 2 * k2, t + h / 2)
            k4 = mixture_velocity(x + h * k3, t + h)
            x += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(x)
    return path


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_has_its_order_when_it_starts_exactly(order: int) -> None:
    def error(num_steps: int) -> float:
        grid = np.linspace(0, 1, num_steps + 1)
        exact = exact_path(0.3, grid)
        weight_LJ = adams_weights(grid, order).weight_LJ
        x = exact[order - 1]
        slopes = [mixture_velocity(exact[k], grid[k]) for k in range(order - 1)][::-1]
        for step in range(order - 1, num_steps):
            slopes = [mixture_velocity(x, grid[step]), *slopes][:order]
            x += float(np.dot(weight_LJ[step], slopes))
        return abs(x - exact[-1])

    coarse, fine = error(320), error(640)
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def integrated(path: PathName, form: DiffusionForm | None, start: float, end: float, nodes: np.ndarray) -> np.ndarray:
    """Integrate the SDE's mean and variance for a polynomial data prediction: factors of state, predictions, noise."""
    count = 1000
    times = np.linspace(start, end, count + 1)
    basis = [lagrange(nodes, j) for j in range(len(nodes))]

    def rates(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        point = path_point(path, torch.from_numpy(t))
        w = (torch.zeros_like(point.t) if form is None else diffusion_of(point, form, 0.7)).numpy()
        alpha, sigma, d_alpha, d_sigma = (
            part.numpy() for part in (point.alpha, point.sigma, point.d_alpha, point.d_sigma)
        )
        on_state = (d_sigma - w / sigma) / sigma
        on_data = d_alpha - on_state * alpha
        return on_state, np.stack([on_data * base(t) for base in basis]), 2 * w

    first, middle, last = rates(times[:-1]), rates((times[1:] + times[:-1]) / 2), rates(times[1:])
    h, y, variance = times[1] - times[0], np.array([1.0, *np.zeros(len(nodes))]), 0.0
    for i in range(count):

        def slope(rate: tuple[np.ndarray, ...], at: np.ndarray, i: int = i) -> np.ndarray:
            return rate[0][i] * at + np.array([0.0, *rate[1][:, i]])

        k1 = slope(first, y)
        k2 = slope(middle, y + h / 2 * k1)
        k3 = slope(middle, y + h / 2 * k2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(last, y + h * k3))
        v1 = 2 * first[0][i] * variance + first[2][i]
        v2 = 2 * middle[0][i] * (variance + h / 2 * v1) + middle[2][i]
        v3 = 2 * middle[0][i] * (variance + h / 2 * v2) + middle[2][i]
        variance += h / 6 * (v1 + 2 * v2 + 2 * v3 + 2 * last[0][i] * (variance + h * v3) + last[2][i])
    return np.array([*y, np.sqrt(variance)])


@pytest.mark.parametrize("path", get_args(PathName))
@pytest.mark.parametrize("form", [*get_args(DiffusionForm), None])
def test_exponential_steps_equal_fine_integration(path: PathName, form: DiffusionForm | None) -> None:
    weights = exponential_weights(path, UNEVEN, 3, form, 0.7)
    expected = integrated(path, form, 0.5, 0.7, UNEVEN[2::-1])
    got = np.array([weights.state_L[2], *weights.weight_LJ[2], weights.noise_L[2]])
    assert got == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("form", [*get_args(DiffusionForm), None])
def test_exponential_steps_are_finite_from_pure_noise_and_end_in_the_data_prediction(
    form: DiffusionForm | None,
) -> None:
    weights = exponential_weights("linear", np.linspace(0, 1, 7), 2, form)
    assert np.isfinite([weights.state_L, weights.noise_L, *weights.weight_LJ.T]).all()
    assert weights.state_L[-1] == weights.noise_L[-1] == 0
    assert weights.weight_LJ[-1] == pytest.approx([2, -1], abs=1e-12)


def test_the_exponential_ode_of_order_1_on_the_linear_path_is_euler() -> None:
    grid = np.array([0.1, 0.3, 0.35, 0.8])
    weights = exponential_weights("linear", grid, 1)
    # x' = (sigma' / sigma) x + (alpha' - sigma' alpha / sigma) (x + (1 - t) v) = x + h v
    size_L, sigma_L = np.diff(grid), 1 - grid[:-1]
    assert weights.state_L + weights.weight_LJ[:, 0] == pytest.approx(np.ones(3), abs=1e-14)
    assert weights.weight_LJ[:, 0] * sigma_L == pytest.approx(size_L, abs=1e-14)


def test_gaussian_steps_of_order_1_are_ddim() -> None:
    kept = [980, 600, 220, 20, 0]
    weights = gaussian_weights(ABAR, kept, 1)
    alpha, sigma = np.sqrt(ABAR[kept]), np.sqrt(1 - ABAR[kept])
    alpha_next, sigma_next = np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    assert weights.state_L == pytest.approx(sigma_next / sigma, abs=1e-15)
    assert weights.weight_LJ[:, 0] == pytest.approx(alpha_next - sigma_next * alpha / sigma, abs=1e-14)


@pytest.mark.parametrize("order", [2, 3])
def test_gaussian_steps_equal_fine_integration(order: int) -> None:
    kept = [700, 640, 500, 430]
    weights = gaussian_weights(ABAR, kept, order)
    step = 2
    nodes = np.array(kept[max(0, step + 1 - order) : step + 1][::-1], dtype=float)
    times = np.linspace(kept[step], kept[step + 1], 200_001)
    theta = np.exp(np.interp(times, np.arange(1000), np.log(ABAR / (1 - ABAR)) / 2))
    sigma_next = np.sqrt(1 - ABAR[kept[step + 1]])
    for j in range(order):
        middle = lagrange(nodes, j)((times[1:] + times[:-1]) / 2)
        assert weights.weight_LJ[step, j] == pytest.approx(sigma_next * float(middle @ np.diff(theta)), abs=1e-8)


def test_a_cache_that_forecasts_the_output_is_a_multistep_solver() -> None:
    """Full calls at every third point of a fine Euler grid, the output forecast linearly between: the same as rows."""
    network = exact_network("linear", "velocity")
    fine_T = np.linspace(0, 1, 13)
    full = fine_T[:-1:3]
    weight_LJ = np.zeros((len(full), 2))
    x_naive, outputs = standard_normal(5), list[tuple[float, torch.Tensor]]()
    for step, start in enumerate(full):
        output = network(x_naive, torch.full((5,), float(start)))
        outputs = [(float(start), output), *outputs][:2]
        nodes = np.array([time for time, _ in outputs])
        for place in range(3 * step, 3 * step + 3):
            size = fine_T[place + 1] - fine_T[place]
            forecast = torch.zeros_like(x_naive)
            for j, (_, past) in enumerate(outputs):
                weight = lagrange(nodes, j)(fine_T[place])
                weight_LJ[step, j] += size * weight
                forecast = forecast + weight * past
            x_naive = x_naive + size * forecast
    config = SamplerConfig(sampler="ode", solver="adams2", steps=len(full))
    rows = MultistepRows(full, MultistepWeights(np.ones(len(full)), weight_LJ, np.zeros(len(full))))
    sampler, x = build_sampler(config, rows=rows), standard_normal(5)
    memory = torch.zeros(5, sampler.num_remembered, 1, 1, 1)
    for step in range(sampler.num_steps):
        x = sampler.step(network, x, torch.full((5,), step), None, memory_BMCYX=memory)
    torch.testing.assert_close(x, x_naive, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("solver", "limit"), [("exp2", 0.03), ("exp3", 0.003)])
def test_exponential_solvers_keep_the_spread_of_gaussian_data(solver: str, limit: float) -> None:
    """The exact recursion of the variance, for a perfect network on data of standard deviation STD."""
    config = SamplerConfig(solver=solver, steps=32, diffusion_form="decreasing")
    rows = multistep_rows(config)
    order = rows.weights.weight_LJ.shape[1]
    # State (x, D_1, D_2): linear in (x, past predictions) and the new noise.
    covariance = np.zeros((order, order))
    covariance[0, 0] = 1.0
    for step, time in enumerate(rows.time_L):
        gain = time * STD**2 / (time**2 * STD**2 + (1 - time) ** 2)  # D = gain x for zero mean
        matrix = np.zeros((order, order))
        matrix[0, 0] = rows.weights.state_L[step] + rows.weights.weight_LJ[step, 0] * gain
        matrix[0, 1:] = rows.weights.weight_LJ[step, 1:]
        matrix[1, 0] = gain
        for place in range(2, order):
            matrix[place, place - 1] = 1.0
        covariance = matrix @ covariance @ matrix.T
        covariance[0, 0] += rows.weights.noise_L[step] ** 2
    assert abs(np.sqrt(covariance[0, 0]) / STD - 1) <= limit

"""Rules of diffusion that hold for any input."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medcli.diffusion.gaussian import gaussian_tables, respace
from medcli.diffusion.guidance import combine
from medcli.diffusion.interpolant import path_point
from medcli.diffusion.steps import build_sampler
from medcli.settings.sampler import SOLVERS, SamplerConfig

PATHS = st.sampled_from(["linear", "gvp", "vp"])
SEEDS = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(PATHS, SEEDS)
def test_interpolants_hit_noise_and_data_at_the_ends(path: str, seed: int) -> None:
    data, noise = normal(seed, 2, 3, 1, 2, 2)
    start, end = path_point(path, torch.zeros(3)), path_point(path, torch.ones(3))  # type: ignore[arg-type]
    torch.testing.assert_close(end.noised(data, noise), data, rtol=0, atol=1e-6)
    # VP, made for diffusion models, leaves exp(-5) of the data at t = 0.
    torch.testing.assert_close(start.noised(data, noise), noise, rtol=1e-4, atol=0.04 if path == "vp" else 1e-6)


@given(PATHS, st.floats(0, 1), st.floats(0, 1))
def test_signal_grows_and_noise_shrinks_with_time(path: str, one: float, other: float) -> None:
    early, late = (path_point(path, torch.tensor(t, dtype=torch.float64)) for t in sorted((one, other)))  # type: ignore[arg-type]
    assert early.alpha <= late.alpha
    assert early.sigma >= late.sigma


@given(st.integers(1, 1000))
def test_respacing_returns_n_distinct_increasing_steps(count: int) -> None:
    kept = respace(str(count))
    assert len(kept) == count
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert count == 1 or kept[-1] == 999


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_respacing_by_sections_keeps_each_sections_count(counts: list[int]) -> None:
    kept = respace(",".join(map(str, counts)))
    assert kept == sorted(set(kept))
    edges = [0]
    for section in range(len(counts)):
        edges.append(edges[-1] + 1000 // len(counts) + (section < 1000 % len(counts)))
    assert [sum(low <= k < high for k in kept) for low, high in zip(edges, edges[1:], strict=False)] == counts


@given(st.integers(2, 1000))
@settings(max_examples=25)
def test_respaced_process_ends_where_the_full_one_does(count: int) -> None:
    full, kept = gaussian_tables(respace("")), respace(str(count))
    torch.testing.assert_close(gaussian_tables(kept).alphas_cumprod, full.alphas_cumprod[kept], rtol=1e-9, atol=0)


@given(SEEDS, st.sampled_from([1, 3, 4]), st.sampled_from([None, 1, 3]))
def test_guidance_at_scale_one_is_the_conditional_output(seed: int, latent_channels: int, channels: int | None) -> None:
    cond, null = normal(seed, 2, 2, 8, 2, 2)
    assert torch.equal(combine(cond, null, 1.0, channels, latent_channels=latent_channels), cond)


@given(
    st.sampled_from(SOLVERS["sde"]),
    PATHS,
    st.sampled_from(["velocity", "noise", "score"]),
    st.lists(st.integers(0, 6), min_size=2, max_size=5),
    SEEDS,
)
@settings(max_examples=50)
def test_a_step_of_an_image_does_not_depend_on_its_batch(
    solver: str, path: str, prediction: str, steps: list[int], seed: int
) -> None:
    sampler = build_sampler(
        SamplerConfig(solver=solver, path=path, prediction=prediction, steps=7)  # type: ignore[arg-type]
    )
    x, noise = normal(seed, 2, len(steps), 1, 2, 2)

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.7 * x - 0.3 * t.view(-1, 1, 1, 1)

    past = normal(seed, len(steps), sampler.num_remembered, 1, 2, 2) if sampler.num_remembered else None

    def memory(chosen: slice) -> torch.Tensor | None:
        return None if past is None else past[chosen].clone()

    together = sampler.step(predict, x, torch.tensor(steps), noise, memory_BMCYX=memory(slice(None)))
    for image, step in enumerate(steps):
        one = slice(image, image + 1)
        alone = sampler.step(
            predict,
            x[one],
            torch.tensor([step]),
            noise[one],
            num_calls=sampler.calls(step),
            memory_BMCYX=memory(one),
        )
        assert torch.equal(together[one], alone)

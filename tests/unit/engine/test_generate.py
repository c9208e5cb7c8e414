from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.diffusion.guidance import combine
from medcli.diffusion.steps import build_sampler
from medcli.engine.batched_rule import distance
from medcli.engine.generate import calls_by_ladder_index, generate
from medcli.engine.networks import Guidance, LadderNetwork, ladder_networks
from medcli.engine.plan import FinishedImage, Labels, SamplingPlan, philox_noise
from medcli.errors import CheckpointError, ConfigError
from medcli.model.backbone import DiffusionTransformer
from medcli.schedule.spec import FULL, Schedule, static
from medcli.settings.sampler import SamplerConfig
from tests.unit.engine.tiny import LADDER, PIXELS, RHO, model_of, with_ladder

DYNAMIC = Schedule(kind="dynamic", counts=LADDER, rho=RHO)
SDE = SamplerConfig(steps=14)
ALL = Labels(classes=tuple(range(10)))
DIT = replace(PIXELS, family="dit", learn_sigma=True)
GREY_LEVEL = 2 / 255


@pytest.fixture(scope="module")
def model() -> DiffusionTransformer:
    return model_of()


def plan_of(**settings: Any) -> SamplingPlan:
    return SamplingPlan(**{"sampler": SDE, "schedule": DYNAMIC, "labels": ALL, "batch_size": 5, **settings})


def images_of(model: DiffusionTransformer, plan: SamplingPlan, indices: Iterable[int]) -> dict[int, FinishedImage]:
    made = list(generate(ladder_networks(model, plan.schedule.counts), plan, indices))
    images = {image.index: image for image in made}
    assert len(images) == len(made)
    return images


def assert_same(one: dict[int, FinishedImage], other: dict[int, FinishedImage], atol: float = 0.0) -> None:
    """Equal images, bit for bit unless a tolerance is given, for the numbers in `one`."""
    for index, image in one.items():
        twin = other[index]
        assert (image.label, image.switch_steps, image.calls) == (twin.label, twin.switch_steps, twin.calls)
        assert (image.latent_CYX - twin.latent_CYX).abs().max() <= atol


@torch.no_grad()
def one_by_one(model: DiffusionTransformer, plan: SamplingPlan, index: int) -> tuple[Tensor, tuple[int, ...]]:
    """The same image by the plainest loop: one image, one step at a time, the rule on single floats."""
    sampler, rule = build_sampler(plan.sampler), plan.schedule.rule()
    noise = philox_noise(plan.seed, (model.config.in_channels, 8, 8))
    index_B, state, moves = torch.tensor([index]), rule.start(), []
    label_B, null_B = plan.labels.of(plan.seed, index_B), torch.tensor([model.config.null_class])
    x = noise(index_B, torch.tensor([0]))
    memory = torch.zeros(1, sampler.num_remembered, *x.shape[1:]) if sampler.num_remembered else None
    for step in range(sampler.num_steps):
        count = rule.ladder[state.index]

        def predict(x: Tensor, t: Tensor, count: int = count) -> Tensor:
            cond, null = model(x, t, label_B, count), model(x, t, null_B, count)
            scale, channels = plan.guidance.scale, plan.guidance.channels
            return combine(cond, null, scale, channels, latent_channels=model.config.in_channels)

        drawn = noise(index_B, torch.tensor([step + 1]))
        after = sampler.step(predict, x, torch.tensor([step]), drawn, memory_BMCYX=memory)
        if 1 <= step < min(sampler.num_observed, sampler.num_steps - 1):
            before, state = state.index, rule.observe(state, distance(plan.schedule.distance, x, after).item())
            moves += [step] * (state.index - before)
        x = after
    return x[0], tuple(moves)


CASES = {
    "sde": (PIXELS, {}),
    "guided": (PIXELS, {"guidance": Guidance(scale=3.0, channels=None)}),
    "sde heun, squared distance": (
        PIXELS,
        {
            "sampler": SamplerConfig(solver="heun", steps=10),
            "schedule": Schedule(kind="dynamic", counts=LADDER, rho=RHO, distance="l2", warmup_steps=2),
        },
    ),
    "exponential": (PIXELS, {"sampler": SamplerConfig(solver="exp2", steps=12, diffusion_form="decreasing")}),
    # A DiT of random weights moves ever faster, so these thresholds are above 1.
    "ddpm, guided": (
        DIT,
        {
            "sampler": SamplerConfig(sampler="ddpm", steps=12),
            "schedule": Schedule(kind="dynamic", counts=LADDER, rho=(2.4, 1.5)),
            "guidance": Guidance(scale=2.0, channels=None),
        },
    ),
    "ddim": (
        DIT,
        {
            "sampler": SamplerConfig(sampler="ddim", steps=12),
            "schedule": Schedule(kind="dynamic", counts=LADDER, rho=(2.077, 1.5)),
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_batched_images_are_those_of_a_plain_loop(case: str) -> None:
    config, settings = CASES[case]
    model = model_of(config)
    plan = plan_of(batch_size=3, seed=11, **settings)
    images = images_of(model, plan, range(8))
    moved = set()
    for index in range(8):
        expected, moves = one_by_one(model, plan, index)
        assert images[index].switch_steps == moves
        torch.testing.assert_close(images[index].latent_CYX, expected, atol=1e-4, rtol=1e-4)
        moved.add(moves)
    assert len(moved) > 1, "the thresholds of this test should part the images"


MULTISTEP = {
    "adams3": (PIXELS, SamplerConfig(sampler="ode", solver="adams3", steps=9)),
    "exp3": (PIXELS, SamplerConfig(solver="exp3", steps=9)),
    "multistep2": (DIT, SamplerConfig(sampler="ddim", solver="multistep2", steps=9)),
    "multistep3 on an even log-SNR grid": (
        DIT,
        SamplerConfig(sampler="ddim", solver="multistep3", steps=9, grid="logsnr"),
    ),
}


@pytest.mark.parametrize("case", MULTISTEP)
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 1.0)])
def test_remembered_slopes_belong_to_their_image(case: str, interval: tuple[float, float]) -> None:
    config, sampler = MULTISTEP[case]
    model = model_of(config)
    timed = Schedule(kind="timed", counts=(4, 16, 0), at=(0.3, 0.6))
    guidance = Guidance(scale=2.0, channels=None, interval=interval)
    plan = plan_of(sampler=sampler, schedule=timed, guidance=guidance, batch_size=4)
    company = images_of(model, plan, range(11))
    for index in (0, 7, 10):
        assert_same(images_of(model, plan, [index]), company)
        assert company[index].switch_steps == timed.timed_moves(9) == (2, 5)
        assert company[index].calls == (3, 3, 3)
    assert sum(company[0].null_calls) == (9 if interval == (0.0, 1.0) else 6)


@pytest.mark.parametrize(("interval", "guided_steps"), [((0.0, 1.0), 10), ((0.3, 0.8), 5)])
def test_adams_remembers_the_guided_slope_and_keeps_its_order_over_an_interval(
    interval: tuple[float, float], guided_steps: int
) -> None:
    model, exact = model_of(), model_of().double()
    plan = plan_of(
        sampler=SamplerConfig(sampler="ode", solver="adams3", steps=10),
        schedule=FULL,
        guidance=Guidance(scale=2.0, channels=None, interval=interval),
    )
    image = images_of(model, plan, range(2))[1]
    x = philox_noise(plan.seed, (1, 8, 8))(torch.tensor([1]), torch.tensor([0])).double()
    label_B, null_B, slopes = torch.tensor([image.label]), torch.tensor([model.config.null_class]), list[Tensor]()
    for step in range(10):
        t_B = torch.tensor([step / 10], dtype=torch.float64)
        with torch.no_grad():
            slope = exact(x, t_B, label_B, 0)
            if interval[0] <= step / 10 < interval[1]:
                null = exact(x, t_B, null_B, 0)
                slope = null + 2.0 * (slope - null)
        slopes = [slope, *slopes][:3]
        weights = {1: [1.0], 2: [1.5, -0.5], 3: [23 / 12, -16 / 12, 5 / 12]}[len(slopes)]
        x = x + sum(weight * past for weight, past in zip(weights, slopes, strict=True)) / 10
    torch.testing.assert_close(image.latent_CYX.double(), x[0], atol=2e-5, rtol=2e-5)
    assert (image.calls, image.null_calls, image.passes) == ((10,), (guided_steps,), (10 + guided_steps,))


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(scale=1.5)])
def test_sampling_is_independent_of_batch_size(model: DiffusionTransformer, guidance: Guidance) -> None:
    reference = images_of(model, plan_of(batch_size=8, guidance=guidance), range(12))
    for batch_size in (1, 5, 32):
        images = images_of(model, plan_of(batch_size=batch_size, guidance=guidance), range(12))
        assert images.keys() == reference.keys()
        assert_same(images, reference, atol=GREY_LEVEL / 10)


@pytest.mark.parametrize("schedule", [DYNAMIC, static(4), FULL])
def test_at_a_fixed_batch_shape_neighbours_and_order_change_no_bit(
    model: DiffusionTransformer, schedule: Schedule
) -> None:
    plan = plan_of(schedule=schedule, guidance=Guidance(scale=1.5))
    everything = images_of(model, plan, range(17))
    assert_same(images_of(model, plan, [3]), everything)
    assert_same(images_of(model, plan, [16, 2, 11, 7, 5, 1]), everything)


def test_seed_changes_every_image(model: DiffusionTransformer) -> None:
    one, other = (images_of(model, plan_of(seed=seed), range(3)) for seed in (0, 1))
    for index in range(3):
        assert (one[index].latent_CYX - other[index].latent_CYX).abs().max() > 0.1


def test_separate_stages_equal_the_ladder_they_were_cut_from(model: DiffusionTransformer) -> None:
    state = model.state_dict()
    models = {}
    for count in LADDER:
        # A single count keeps its tables under upstream's names.
        own = {name.replace(f"ladder.{count}.", ""): tensor for name, tensor in state.items()}
        own = {name: tensor for name, tensor in own.items() if ".ladder." not in name}
        models[count] = DiffusionTransformer(with_ladder(PIXELS, count)).eval()
        models[count].load_state_dict(own)
    plan = plan_of()
    cut = {image.index: image for image in generate(ladder_networks(models, LADDER), plan, range(6))}
    assert_same(cut, images_of(model, plan, range(6)))


def test_every_batch_has_the_same_shape(model: DiffusionTransformer) -> None:
    rows = []

    def watched(network: LadderNetwork) -> LadderNetwork:
        def forward(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            rows.append(len(x))
            return network.forward(x, t, label)

        return replace(network, forward=forward)

    networks = [watched(network) for network in ladder_networks(model, LADDER)]
    list(generate(networks, plan_of(guidance=Guidance(scale=1.5), batch_size=4), range(9)))
    assert set(rows) == {8}


def test_one_network_call_a_step_of_euler(model: DiffusionTransformer) -> None:
    calls = 0
    (network,) = ladder_networks(model, (4,))

    def forward(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return network.forward(x, t, label)

    plan = plan_of(schedule=static(4), batch_size=2)
    (first, second) = generate([replace(network, forward=forward)], plan, range(2))
    assert calls == SDE.steps == build_sampler(SDE).nfe
    assert first.calls == second.calls == (SDE.steps,)


def test_calls_are_counted_at_the_entry_they_were_made_at() -> None:
    calls_L = torch.tensor([2, 2, 2, 2, 1])
    assert calls_by_ladder_index(calls_L, (1, 3), 3) == (4, 4, 1)
    assert calls_by_ladder_index(calls_L, (2, 2), 3) == (6, 0, 3)
    assert calls_by_ladder_index(calls_L, (3,), 3) == (8, 1, 0)
    assert calls_by_ladder_index(calls_L, (), 3) == (9, 0, 0)
    assert calls_by_ladder_index(calls_L, (), 1) == (9,)


def test_a_move_after_the_last_step_is_none() -> None:
    """DDPM and the ODE are observed to the end; a move that no step follows did not happen."""
    model = model_of(DIT)
    always = Schedule(kind="dynamic", counts=(1, 4), rho=(1e6,), warmup_steps=3)
    plan = plan_of(schedule=always, sampler=SamplerConfig(sampler="ddim", steps=5))
    assert images_of(model, plan, [0])[0].switch_steps == ()
    plan = plan_of(schedule=always, sampler=SamplerConfig(sampler="ddim", steps=6))
    assert images_of(model, plan, [0])[0].switch_steps == (4,)


def test_progress_counts_images_and_the_solver_steps_of_those_in_flight(model: DiffusionTransformer) -> None:
    seen: list[tuple[float, int]] = []

    class Watcher:
        def progress(self, done: float, total: int, unit: str, detail: str = "") -> None:
            assert unit == "images"
            seen.append((done, total))

        def note(self, text: str) -> None:
            raise AssertionError(text)

        warn = note

    list(generate(ladder_networks(model, LADDER), plan_of(), range(7), reporter=Watcher()))
    assert seen[-1] == (7, 7)
    assert 0 < seen[0][0] < 1
    assert seen == sorted(seen)


DOPRI5 = SamplerConfig(sampler="ode", solver="dopri5", steps=2)


def test_dopri5_images_do_not_depend_on_which_of_their_group_are_asked_for(model: DiffusionTransformer) -> None:
    plan = plan_of(sampler=DOPRI5, schedule=static(4), batch_size=4)
    everything = images_of(model, plan, range(6))
    some = images_of(model, plan, [5, 2])
    assert some.keys() == {2, 5}
    assert_same(some, everything)
    assert everything[0].calls[0] > 7


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_dopri5_counts_the_passes_of_both_halves(model: DiffusionTransformer, scale: float) -> None:
    network, rows = ladder_networks(model, (4,))[0], 0

    def counted(latent_BCYX: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
        nonlocal rows
        rows += len(latent_BCYX)
        return network.forward(latent_BCYX, t_B, label_B)

    plan = plan_of(sampler=DOPRI5, schedule=static(4), guidance=Guidance(scale=scale))
    (image,) = generate((replace(network, forward=counted),), plan, [0])
    assert sum(image.passes) * plan.batch_size == rows
    assert sum(image.passes) == (1 if scale == 1 else 2) * sum(image.calls)


def test_dopri5_agrees_with_a_fine_fixed_grid(model: DiffusionTransformer) -> None:
    adaptive = images_of(model, plan_of(sampler=DOPRI5, schedule=static(4)), range(3))
    fine = SamplerConfig(sampler="ode", solver="rk4", steps=60)
    fixed = images_of(model, plan_of(sampler=fine, schedule=static(4)), range(3))
    for index in range(3):
        torch.testing.assert_close(adaptive[index].latent_CYX, fixed[index].latent_CYX, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (PIXELS, {"sampler": DOPRI5}, "chooses its own steps"),
        (PIXELS, {"sampler": SamplerConfig(sampler="ddpm")}, "not for a sit model"),
        (DIT, {"sampler": SDE}, "not for a dit model"),
        (PIXELS, {"labels": Labels(classes=(3, 10))}, "class 10 is out of range"),
        (PIXELS, {"labels": Labels(classes=(-1,))}, "class -1 is out of range"),
        (PIXELS, {"batch_size": 0}, "at least 1"),
        (replace(PIXELS, has_null_class=False), {"guidance": Guidance(scale=1.5)}, "no null class"),
    ],
)
def test_plans_a_model_cannot_follow_are_refused_at_once(
    config: ModelConfig, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(ladder_networks(model_of(config), LADDER), plan_of(**settings), [0])


def test_stages_must_be_those_of_the_schedule(model: DiffusionTransformer) -> None:
    with pytest.raises(ConfigError, match="schedule's mediator counts"):
        generate(ladder_networks(model, (1, 4)), plan_of(), [0])


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_an_image_that_diverges_is_named_with_its_step_once_the_others_are_finished(
    model: DiffusionTransformer, batch_size: int
) -> None:
    (network,) = ladder_networks(model, (4,))

    def forward(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        output = network.forward(x, t, label)
        output[(label == 2) & (t > 0.45), 0, 0, 0] = float("nan")
        return output

    plan = plan_of(
        schedule=static(4), sampler=SamplerConfig(sampler="ode", solver="euler", steps=11), batch_size=batch_size
    )
    made: list[FinishedImage] = []
    with pytest.raises(CheckpointError, match=r"^image 2 became NaN or infinite at solver step 5 of 10: "):
        made.extend(generate([replace(network, forward=forward)], plan, [0, 2, 1]))
    assert {image.index for image in made} <= {0, 1}
    assert all(image.latent_CYX.isfinite().all() for image in made)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adaptive_solver_that_diverges_names_an_image(model: DiffusionTransformer, value: float) -> None:
    (network,) = ladder_networks(model, (4,))
    broken = replace(network, forward=lambda x, t, label: network.forward(x, t, label) * value)
    plan = plan_of(schedule=static(4), sampler=SamplerConfig(sampler="ode", solver="dopri5"), batch_size=2)
    with pytest.raises(CheckpointError, match=r"^image 0 became NaN or infinite .*dopri5"):
        list(generate([broken], plan, [0, 1]))

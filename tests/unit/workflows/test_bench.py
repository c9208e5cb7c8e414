"""Structure, order and arithmetic of the measuring; no test looks at how fast anything is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medcli.engine.cost import pass_gmacs
from medcli.engine.plan import FinishedImage
from medcli.engine.plan_file import plan_file, write_plan
from medcli.errors import ConfigError
from medcli.model.absorption import absorbed_saving
from medcli.model.backbone import DiffusionTransformer, random_model
from medcli.model.mediator import MediatorAttention
from medcli.network import Network
from medcli.presets import preset_config
from medcli.runtime.reporting import Silent
from medcli.runtime.timing import Clock
from medcli.schedule.spec import FULL
from medcli.settings.costs import BenchRequest, BenchSettings
from medcli.settings.network import NetworkSource
from medcli.settings.sampling import SampleRequest
from medcli.workflows.bench.loops import baseline_of, plans_of
from medcli.workflows.bench.rows import measure
from medcli.workflows.bench.run import BenchReport, bench, machine_name, prepare
from medcli.workflows.bench.variants import TimedVariant, networks_by_count, unabsorbed_networks
from tests.unit.engine.tiny import LADDER, PIXELS, save, with_ladder

CPU = torch.device("cpu")
SAMPLING = SampleRequest(schedule="dynamic", rho=(0.98, 0.9), sampler="sde", steps=6, warmup_steps=1)
ABSORBED = (1, 4)
"""Counts of the ladder that tiny networks absorb."""
FORWARDS = [
    ("forward", "dense", ()),
    ("forward", "mediators", (1,)),
    ("forward", "unabsorbed", (1,)),
    ("forward", "mediators", (4,)),
    ("forward", "unabsorbed", (4,)),
    ("forward", "mediators", (16,)),
]


class Notes(Silent):
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.seen: list[tuple[float, int, str]] = []

    def progress(self, done: float, total: int, unit: str, detail: str = "") -> None:
        self.seen.append((done, total, unit))

    def note(self, text: str) -> None:
        self.notes.append(text)

    warn = note


def scripted(durations: Sequence[float]) -> Clock:
    """A clock by which the timed runs, in their order, took these seconds, and twice that by the wall."""
    marks: list[float] = [0.0]
    for duration in durations:
        marks += [0.0, duration]
    now, wall = iter(marks[1:]), iter(marks[1:])
    return Clock(name="fake", now=lambda: next(now), wall=lambda: 2 * next(wall), synchronize=lambda: None)


def request_of(path: Path, **changes: Any) -> BenchRequest:
    sampling, plans = changes.pop("sampling", SAMPLING), changes.pop("plans", ())
    network = NetworkSource(checkpoint=str(path), weights=None, **changes.pop("network", {}))
    settings = BenchSettings(**{"network": network, "repeats": 2, "batch_size": 3, "device": "cpu", **changes})
    return BenchRequest(settings=settings, sampling=sampling, plans=plans)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("bench") / "tiny.safetensors")


@pytest.fixture(scope="module")
def report(file: Path) -> BenchReport:
    forward = [4.0, 2.0, 3.0, 4.0, 5.0, 8.0]
    loop = [250.0, 6.0, 3.0]
    return bench(request_of(file), Notes(), clock=scripted([*forward, *forward, *loop, *(2 * s for s in loop)]))


def test_every_mediator_count_and_the_plan_are_compared_with_full_attention(report: BenchReport) -> None:
    assert [(row.group, row.variant, row.mediators) for row in report.rows] == [
        *FORWARDS,
        ("loop", "baseline", ()),
        ("loop", "dense", ()),
        ("loop", "plan", LADDER),
    ]


def test_ratios_are_quotients_of_images_per_second_and_slower_is_below_full_attention(report: BenchReport) -> None:
    forwards, loops = report.rows[:6], report.rows[6:]
    ratios = [1.0, 2.0, 4 / 3, 1.0, 0.8, 0.5]
    assert [row.ratio_to_dense for row in forwards] == pytest.approx(ratios)
    assert [row.is_slower for row in forwards] == [ratio < 1 for ratio in ratios]
    assert [row.num_images for row in loops] == [3, 3, 3]
    assert [row.ratio_to_dense for row in loops] == pytest.approx([1.0, 250 / 6, 250 / 3])


def test_seconds_are_median_and_quartiles_of_the_clock_and_the_walls_median_beside(report: BenchReport) -> None:
    plan = report.rows[8].to_json()
    assert (plan["seconds_median"], plan["seconds_q1"], plan["seconds_q3"]) == (4.5, 3.75, 5.25)
    assert plan["wall_seconds_median"] == 9.0
    assert (plan["images_per_sec"], plan["seconds_per_image"]) == (3 / 4.5, 1.5)


def test_multiply_adds_are_those_of_the_calls_really_made(report: BenchReport) -> None:
    for row in report.rows[:6]:
        assert row.gmacs == pass_gmacs(PIXELS, row.mediators[0] if row.mediators else 0)
    baseline, dense, plan = report.rows[6:]
    assert (baseline.calls, dense.calls) == ((250,), (6,))
    assert baseline.gmacs == pytest.approx(250 / 6 * dense.gmacs)
    assert plan.calls is not None
    assert sum(plan.calls) == 6
    costs = [pass_gmacs(PIXELS, count) for count in LADDER]
    assert plan.gmacs == pytest.approx(sum(n * cost for n, cost in zip(plan.calls, costs, strict=True)))


def test_absorption_saves_multiply_adds_in_the_rows_that_have_it(report: BenchReport) -> None:
    saving = {count: absorbed_saving(PIXELS, num_mediators=count) / 1e9 for count in (0, *LADDER)}
    assert [count for count in LADDER if saving[count]] == list(ABSORBED)
    for row in report.rows[:6]:
        absorbs = row.variant == "mediators"
        count = row.mediators[0] if absorbs else 0
        assert row.gmacs - row.gmacs_done == pytest.approx(saving[count], abs=1e-15)
    _, dense, plan = report.rows[6:]
    assert plan.calls is not None
    saved = sum(calls * saving[count] for calls, count in zip(plan.calls, LADDER, strict=True))
    assert plan.gmacs - plan.gmacs_done == pytest.approx(saved)
    assert dense.gmacs_done == dense.gmacs


@torch.no_grad()
def test_a_network_without_absorption_computes_every_query_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(PIXELS)
    networks, unabsorbed = networks_by_count(model, compiled=False), unabsorbed_networks(model, compiled=False)
    assert tuple(unabsorbed) == ABSORBED
    inputs = torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([0, 1, 2])
    made = {
        count: (network.forward(*inputs), networks[count].forward(*inputs)) for count, network in unabsorbed.items()
    }
    monkeypatch.setattr(MediatorAttention, "absorbs", lambda attention, count: False)
    for count, (plain, absorbed) in made.items():
        assert unabsorbed[count].num_mediators == count
        assert torch.equal(plain, model(*inputs, num_mediators=count))
        torch.testing.assert_close(plain, absorbed, rtol=1e-5, atol=1e-6)
    assert unabsorbed_networks(random_model(with_ladder(PIXELS, 16)), compiled=False) == {}


def test_progress_counts_every_run_timed_or_not(file: Path) -> None:
    notes = Notes()
    bench(request_of(file, repeats=1), notes)
    total = len(FORWARDS) * (2 + 1) + 3 * (1 + 1)
    assert notes.seen == [(done, total, "runs") for done in range(1, total + 1)]


def test_variants_warm_up_first_and_are_then_timed_in_turn() -> None:
    events: list[str] = []

    def variant(name: str) -> TimedVariant:
        def run() -> Sequence[FinishedImage]:
            events.append(name)
            return ()

        return TimedVariant(
            name=name,
            mediators=(),
            num_images=1,
            dtype="fp32",
            compiled=False,
            gmacs_per_call=(1.0,),
            executed_per_call=(1.0,),
            run=run,
        )

    def ticks() -> Iterator[float]:
        while True:
            events.append("tick")
            yield float(len(events))

    clock = Clock(name="fake", now=ticks().__next__, wall=lambda: 0.0, synchronize=lambda: None)
    measure([variant("a"), variant("b")], untimed=2, repeats=2, clock=clock, device=CPU, after_run=lambda: None)
    assert "".join(event[0] for event in events) == "aabb" + "tattbt" * 2


def test_threads_and_clock_are_in_the_report_and_the_threads_end_with_it(file: Path) -> None:
    before = torch.get_num_threads()
    made = bench(request_of(file, num_threads=2, repeats=1, sampling=SampleRequest(steps=0)), Silent())
    assert (made.threads, made.clock) == (2, "wall")
    assert torch.get_num_threads() == before
    made = bench(request_of(file, num_threads=1, repeats=1, sampling=SampleRequest(steps=0)), Silent())
    assert (made.threads, made.clock, len(made.rows)) == (1, "thread_cpu", 6)


def test_without_settings_the_ladder_is_climbed_by_progress_in_few_calls(tmp_path: Path) -> None:
    dit = replace(PIXELS, family="dit", learn_sigma=True)
    for config, sampler, solver, first in ((PIXELS, "ode", "adams3", "sde"), (dit, "ddim", "multistep2", "ddpm")):
        path = save(tmp_path / f"{config.family}.safetensors", config)
        request = request_of(path, sampling=SampleRequest())
        network = prepare(request.settings, Silent())[0]
        (named,) = plans_of(request, network, 3)
        plan, papers = named.plan, baseline_of(named.plan, network)
        assert (plan.sampler.sampler, plan.sampler.solver, plan.sampler.steps) == (sampler, solver, 12)
        assert (plan.schedule.kind, plan.schedule.counts) == ("timed", (*LADDER, 0))
        assert plan.guidance.scale == 1
        (null,) = plans_of(replace(request, sampling=SampleRequest(cfg_scale=0.0)), network, 3)
        assert null.plan.guidance.scale == 0  # the null half alone, not the default
        assert (papers.sampler.sampler, papers.sampler.steps, papers.schedule) == (first, 250, FULL)
    made = bench(request_of(path, repeats=1, sampling=SampleRequest(steps=3, schedule="full")), Silent())
    assert [row.title for row in made.rows if row.group == "loop"] == ["full, 250 steps", "full, 3 calls"]


def test_the_checkpoints_own_sampling_is_timed_and_its_distance_to_the_exact_path(tmp_path: Path) -> None:
    own = {"sampler": "ode", "solver": "adams2", "steps": 8, "schedule": "static", "cfg_scale": 2.0}
    path = save(tmp_path / "own.safetensors", sampling={**own, "for_sampler": {"sde": {"diffusion_form": "constant"}}})
    baseline, dense, plan = bench(request_of(path, repeats=1, sampling=SampleRequest()), Silent()).rows[-3:]
    assert (plan.title, plan.mediators) == ("16, 8 calls", (16,))
    assert baseline.sampling is not None
    assert baseline.sampling["sampler"]["diffusion_form"] == "constant"
    assert baseline.gmacs == pytest.approx(2 * 250 * pass_gmacs(PIXELS, 0))
    assert baseline.error is None
    assert dense.error is not None
    assert plan.error is not None
    assert 0 < dense.error < plan.error


def test_random_weights_have_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcli.workflows.bench.loops.PAPER_STEPS", 3)
    few = SampleRequest(steps=2, schedule="full")
    made = bench(request_of(Path("SiT-S/8"), repeats=1, network={"res": 64}, sampling=few), Silent())
    assert [(row.variant, row.error) for row in made.rows[-2:]] == [("baseline", None), ("plan", None)]


def test_plan_files_are_timed_side_by_side_and_contradict_settings(file: Path, tmp_path: Path) -> None:
    files = []
    for steps in (3, 5):
        (named,) = plans_of(request_of(file, sampling=SampleRequest(steps=steps, schedule="static")), opened(file), 3)
        files.append(tmp_path / f"{steps}.json")
        write_plan(files[-1], plan_file(named.plan, PIXELS))
    request = request_of(file, repeats=1, sampling=SampleRequest(), plans=tuple(files))
    rows = bench(request, Silent()).rows
    assert [(row.variant, row.title) for row in rows[6:]] == [
        ("baseline", "full, 250 steps"),
        *(("plan", str(path)) for path in files),
    ]
    assert [sum(row.calls or ()) for row in rows[6:]] == [250, 3, 5]
    with pytest.raises(ConfigError, match="--steps and --plan contradict"):
        bench(request_of(file, sampling=SampleRequest(steps=0), plans=tuple(files)), Silent())


def test_a_long_baseline_is_timed_by_fewer_steps(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(file, repeats=1, sampling=SampleRequest(steps=4, schedule="full"))
    whole = bench(request, Silent()).rows[6]
    monkeypatch.setattr("medcli.workflows.bench.loops.MEASURED_GMACS", {"cpu": 0.0})
    part, plan = bench(request, Silent()).rows[6:]
    assert (whole.scale, part.scale) == (1, 62.5)
    assert (part.calls, part.gmacs) == ((250,), pytest.approx(whole.gmacs))
    assert part.seconds_per_image == pytest.approx(part.seconds.median * 62.5 / 3)
    assert plan.error is None


@pytest.mark.parametrize(
    ("mediators", "names"),
    [((), ["baseline", "plan"]), ((4,), ["baseline", "dense", "plan"]), ((4, 0), ["baseline", "dense", "plan"])],
)
def test_ladders_of_no_and_of_one_count_run_too(file: Path, mediators: tuple[int, ...], names: list[str]) -> None:
    network = {"mediators": mediators}
    made = bench(request_of(file, repeats=1, network=network, sampling=SampleRequest(steps=2)), Silent())
    assert [row.variant for row in made.rows if row.group == "loop"] == names


def opened(path: Path) -> Network:
    return prepare(request_of(path).settings, Silent())[0]


def network_of(**changes: Any) -> Network:
    settings = BenchSettings(network=NetworkSource(weights=None, **changes), repeats=1, device="cpu")
    return prepare(settings, Silent())[0]


def test_a_preset_has_mediators_in_every_block_and_weights_that_do_something() -> None:
    subject = network_of()
    assert subject.name == "SiT-S/2"
    assert subject.config == replace(preset_config("SiT-S/2"), mediators=(4, 16, 64), mediator_layers=tuple(range(12)))
    model = random_model(PIXELS)
    assert isinstance(model, DiffusionTransformer)
    outputs = [
        model(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.tensor([label]), count)
        for label in (0, 1)
        for count in (0, *LADDER)
    ]
    assert all(not torch.equal(one, other) for i, one in enumerate(outputs) for other in outputs[:i])
    assert torch.equal(random_model(PIXELS).state_dict()["blocks.0.mlp.fc1.weight"], model.blocks[0].mlp.fc1.weight)


def test_a_checkpoint_keeps_its_ladder_unless_told_otherwise(file: Path) -> None:
    assert network_of(checkpoint=str(file)).config == PIXELS
    changed = network_of(checkpoint=str(file), res=16, mediators=(4, 9), layers="0")
    assert changed.config == replace(PIXELS, latent_size=16, mediators=(4, 9), mediator_layers=(0,), positions_side=4)
    assert changed.load().config == changed.config


def test_a_dense_checkpoint_gets_mediators_in_every_block(tmp_path: Path) -> None:
    path = save(tmp_path / "dense.safetensors", with_ladder(PIXELS))
    assert network_of(checkpoint=str(path), mediators=(1, 4)).config == with_ladder(PIXELS, 1, 4)


def test_no_rounds_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="--repeats"):
        bench(request_of(file, repeats=0), Silent())


def test_the_machine_has_a_name_even_where_the_system_hides_it(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nmodel name\t: Abacus 3000\n")
    assert machine_name(CPU, listing) == "Abacus 3000"
    assert machine_name(CPU, tmp_path / "none")

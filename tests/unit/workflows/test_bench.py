"""Structure, order and arithmetic of the measuring; no test looks at how fast anything is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medcli.engine.cost import call_gmacs
from medcli.engine.networks import Guidance
from medcli.engine.plan import FinishedImage
from medcli.errors import ConfigError
from medcli.model.absorption import absorbed_saving
from medcli.model.backbone import DiffusionTransformer, random_model
from medcli.model.mediator import MediatorAttention
from medcli.network import Network
from medcli.presets import preset_config
from medcli.runtime.reporting import Silent
from medcli.runtime.timing import Clock
from medcli.settings.costs import BenchRequest, BenchSettings, LoopSettings
from medcli.settings.network import NetworkSource
from medcli.settings.sampler import SamplerConfig
from medcli.workflows.bench.loops import even_rho, loop_plan
from medcli.workflows.bench.rows import measure
from medcli.workflows.bench.run import BenchReport, bench, machine_name, prepare
from medcli.workflows.bench.variants import TimedVariant, networks_by_count, unabsorbed_networks
from tests.unit.engine.tiny import LADDER, PIXELS, save, with_ladder

CPU = torch.device("cpu")
LOOP = LoopSettings(steps=6, warmup_steps=1)
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
        self.seen: list[tuple[int, int, str]] = []

    def progress(self, done: int, total: int, unit: str) -> None:
        self.seen.append((done, total, unit))

    def note(self, text: str) -> None:
        self.notes.append(text)


def scripted(durations: Sequence[float]) -> Clock:
    """A clock by which the timed runs, in their order, took these seconds, and twice that by the wall."""
    marks: list[float] = [0.0]
    for duration in durations:
        marks += [0.0, duration]
    now, wall = iter(marks[1:]), iter(marks[1:])
    return Clock(name="fake", now=lambda: next(now), wall=lambda: 2 * next(wall), synchronize=lambda: None)


def request_of(path: Path, **changes: Any) -> BenchRequest:
    loop = changes.pop("loop", LOOP)
    network = NetworkSource(checkpoint=str(path), weights=None, **changes.pop("network", {}))
    settings = BenchSettings(**{"network": network, "repeats": 2, "batch_size": 3, "device": "cpu", **changes})
    return BenchRequest(settings=settings, loop=loop)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("bench") / "tiny.safetensors")


@pytest.fixture(scope="module")
def report(file: Path) -> BenchReport:
    forward = [4.0, 2.0, 3.0, 4.0, 5.0, 8.0]
    loop = [6.0, 3.0]
    return bench(request_of(file), Notes(), clock=scripted([*forward, *forward, *loop, *(2 * s for s in loop)]))


def test_every_mediator_count_and_the_engine_are_compared_with_full_attention(report: BenchReport) -> None:
    assert [(row.group, row.variant, row.mediators) for row in report.rows] == [
        *FORWARDS,
        ("loop", "dense", ()),
        ("loop", "engine", LADDER),
    ]


def test_ratios_are_quotients_of_images_per_second_and_slower_is_below_full_attention(report: BenchReport) -> None:
    forwards, (dense, engine) = report.rows[:6], report.rows[6:]
    ratios = [1.0, 2.0, 4 / 3, 1.0, 0.8, 0.5]
    assert [row.ratio_to_dense for row in forwards] == pytest.approx(ratios)
    assert [row.is_slower for row in forwards] == [ratio < 1 for ratio in ratios]
    assert (dense.num_images, engine.num_images) == (3, 3)
    assert engine.ratio_to_dense == pytest.approx(2.0)


def test_seconds_are_median_and_quartiles_of_the_clock_and_the_walls_median_beside(report: BenchReport) -> None:
    engine = report.rows[7].to_json()
    assert (engine["seconds_median"], engine["seconds_q1"], engine["seconds_q3"]) == (4.5, 3.75, 5.25)
    assert engine["wall_seconds_median"] == 9.0
    assert engine["images_per_sec"] == 3 / 4.5


def test_multiply_adds_are_those_of_the_calls_really_made(report: BenchReport) -> None:
    for row in report.rows[:6]:
        assert row.gmacs == call_gmacs(PIXELS, row.mediators[0] if row.mediators else 0, Guidance())
    engine = report.rows[7]
    assert engine.calls is not None
    assert sum(engine.calls) == 6
    costs = [call_gmacs(PIXELS, count, Guidance()) for count in LADDER]
    assert engine.gmacs == pytest.approx(sum(n * cost for n, cost in zip(engine.calls, costs, strict=True)))


def test_absorption_saves_multiply_adds_in_the_rows_that_have_it(report: BenchReport) -> None:
    saving = {count: absorbed_saving(PIXELS, num_mediators=count) / 1e9 for count in (0, *LADDER)}
    assert [count for count in LADDER if saving[count]] == list(ABSORBED)
    for row in report.rows[:6]:
        absorbs = row.variant == "mediators"
        count = row.mediators[0] if absorbs else 0
        assert row.gmacs - row.gmacs_done == pytest.approx(saving[count], abs=1e-15)
    dense, engine = report.rows[6:]
    assert engine.calls is not None
    saved = sum(calls * saving[count] for calls, count in zip(engine.calls, LADDER, strict=True))
    assert engine.gmacs - engine.gmacs_done == pytest.approx(saved)
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
    total = len(FORWARDS) * (2 + 1) + 2 * (1 + 1)
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
    made = bench(request_of(file, num_threads=2, repeats=1, loop=replace(LOOP, steps=0)), Silent())
    assert (made.threads, made.clock) == (2, "wall")
    assert torch.get_num_threads() == before
    made = bench(request_of(file, num_threads=1, repeats=1, loop=replace(LOOP, steps=0)), Silent())
    assert (made.threads, made.clock, len(made.rows)) == (1, "thread_cpu", 6)


def test_a_dit_model_is_measured_by_network_calls_only_and_that_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "dit.safetensors", replace(PIXELS, family="dit", learn_sigma=True))
    notes = Notes()
    made = bench(request_of(path, repeats=1), notes)
    assert {row.group for row in made.rows} == {"forward"}
    assert notes.notes == ["forward passes only: sampling runs are timed for SiT models"]


@pytest.mark.parametrize(("mediators", "names"), [((), ["dense"]), ((4,), ["dense", "engine"])], ids=["none", "one"])
def test_ladders_of_no_and_of_one_count_run_too(file: Path, mediators: tuple[int, ...], names: list[str]) -> None:
    made = bench(request_of(file, repeats=1, network={"mediators": mediators}), Silent())
    assert [row.variant for row in made.rows if row.group == "loop"] == names
    assert made.rho == ()


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
    assert changed.config == replace(PIXELS, latent_size=16, mediators=(4, 9), mediator_layers=(0,))
    assert changed.load().config == changed.config


def test_a_dense_checkpoint_gets_mediators_in_every_block(tmp_path: Path) -> None:
    path = save(tmp_path / "dense.safetensors", with_ladder(PIXELS))
    assert network_of(checkpoint=str(path), mediators=(1, 4)).config == with_ladder(PIXELS, 1, 4)


@pytest.mark.parametrize(("steps", "counts", "warmup"), [(5, 3, 1), (6, 3, 1), (30, 3, 1), (30, 4, 3), (250, 2, 3)])
def test_even_thresholds_give_each_count_its_share_of_steps_when_noise_decides(
    steps: int, counts: int, warmup: int
) -> None:
    ladder = tuple(range(1, counts + 1))
    plan = loop_plan(
        with_ladder(PIXELS, *(count**2 for count in ladder)), LoopSettings(steps=steps, warmup_steps=warmup), 4
    )
    assert plan is not None
    assert plan.sampler == SamplerConfig(steps=steps)
    state, rule, used = plan.schedule.rule().start(), plan.schedule.rule(), [0] * counts
    for step in range(steps):
        used[state.index] += 1
        if 1 <= step < steps - 1:
            state = rule.observe(state, math.sqrt(1 - step * 0.96 / (steps - 1)))
    assert sum(used) == steps
    assert min(used) >= 1
    if steps >= 30:
        assert max(used) - min(used) <= 2


def test_too_few_steps_for_a_ladder_are_refused_with_the_number_that_does() -> None:
    with pytest.raises(ConfigError, match="too few to climb") as refused:
        even_rho(3, 4, 1)
    assert refused.value.hint == "try --steps 5, or --rho"
    assert len(even_rho(3, 5, 1)) == 2


def test_given_thresholds_are_taken_and_need_a_ladder() -> None:
    plan = loop_plan(PIXELS, LoopSettings(steps=5, warmup_steps=2, rho=(0.5, 0.2)), 4)
    assert plan is not None
    assert (plan.schedule.rho, plan.schedule.warmup_steps) == ((0.5, 0.2), 2)
    with pytest.raises(ConfigError, match="at least two counts"):
        loop_plan(with_ladder(PIXELS, 4), LoopSettings(steps=5, warmup_steps=2, rho=(0.5,)), 4)


def test_no_rounds_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="--repeats"):
        bench(request_of(file, repeats=0), Silent())


def test_the_machine_has_a_name_even_where_the_system_hides_it(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nmodel name\t: Abacus 3000\n")
    assert machine_name(CPU, listing) == "Abacus 3000"
    assert machine_name(CPU, tmp_path / "none")

"""Cost of a forward pass of each variant: GMACs, and milliseconds measured on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from medcli.config import ModelConfig
from medcli.engine.cost import done_gmacs, pass_gmacs
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.timing import Spread, clock_for, take_turns, thread_limit
from medcli.tuning.networks import config_with, network_of
from medcli.tuning.space import DENSE, NetworkVariant
from medcli.tuning.store import Store, damaged
from medcli.workflows.bench.run import machine_name
from medcli.workflows.bench.variants import forward_variants
from medcli.workflows.tune.setup import TuneSetup

TIMES = "times.json"
NUM_ROUNDS = 15
MS = 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Measured times and how they were measured."""

    ms_a_pass: dict[str, float] = field(metadata={"above": 0})
    """Milliseconds of a forward pass of one image at each count in all layers; 0: full attention."""
    clock: str
    threads: int
    batch_size: int
    rounds: int
    machine: str
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Cost of one forward pass of one image."""

    config: ModelConfig
    ms: Mapping[int, float] | None = None
    """Measured milliseconds at each count in all layers, 0 for full attention; None: not measured."""
    times: Times | None = None
    """Record of the measurement."""

    def gmacs(self, variant: NetworkVariant) -> float:
        """Return the GMACs in the papers' convention."""
        return pass_gmacs(config_with(self.config, variant.layers), variant.count)

    def done(self, variant: NetworkVariant) -> float:
        """Return the GMACs executed: without the queries and keys that are absorbed."""
        return done_gmacs(config_with(self.config, variant.layers), variant.count)

    def milliseconds(self, variant: NetworkVariant) -> float:
        """Interpolate between full attention and mediators in all layers by the GMACs executed."""
        assert self.ms is not None  # called only if they were measured
        dense, whole = self.ms[0], self.ms[variant.count]
        everywhere = self.done(NetworkVariant(self.config.mediator_layers, variant.count)) if variant.layers else 0.0
        change = everywhere - self.done(DENSE)
        if not variant.layers:
            return dense
        share = (self.done(variant) - self.done(DENSE)) / change if change else 1.0
        return dense + share * (whole - dense)

    def table(self, variants: Iterable[NetworkVariant], unit: str) -> dict[NetworkVariant, float]:
        """Return the cost of each variant in a unit: `gmacs`, `ms` or `done`."""
        of = {"gmacs": self.gmacs, "ms": self.milliseconds, "done": self.done}[unit]
        return {variant: of(variant) for variant in variants}


def costs_of(setup: TuneSetup, model: DiffusionTransformer, store: Store) -> Costs:
    """Build the costs; if the budget is in milliseconds, measure time or read what an earlier run measured."""
    if setup.budget.unit == "gmacs":
        return Costs(config=setup.config)
    kept = store.record(Times, TIMES)
    counts = {str(count) for count in (0, *setup.counts)}
    if kept is not None and set(kept.ms_a_pass) != counts:
        raise damaged(store.path / TIMES, f"expected times of the counts {', '.join(sorted(counts, key=int))}")
    if kept is None or (kept.machine, kept.device) != (machine_name(setup.device), str(setup.device)):
        kept = measured_times(setup, model)
        store.put_json(TIMES, asdict(kept))
    return Costs(config=setup.config, times=kept, ms={int(count): ms for count, ms in kept.ms_a_pass.items()})


def measured_times(setup: TuneSetup, model: DiffusionTransformer) -> Times:
    """Measure the milliseconds of a forward pass of one image: medians over interleaved rounds."""
    variants = [DENSE, *(NetworkVariant(setup.layers, count) for count in setup.counts)]
    # The timed variants look up the cost of all counts in one configuration.
    networks = {variant.count: replace(network_of(model, variant), config=setup.config) for variant in variants}
    size, dtype = setup.plan.batch_size, setup.request.sampling.dtype
    timed = forward_variants(networks, {}, batch_size=size, device=setup.device, dtype=dtype, compiled=False)
    works = [variant.run for variant in timed]
    with thread_limit(None) as threads:
        clock = clock_for(setup.device, threads)
        for work in works:
            work()
        readings = take_turns(works, NUM_ROUNDS, clock)
    medians = [Spread.of([reading.seconds for reading in own]).median * MS / size for own in readings]
    counts = [str(variant.count) for variant in variants]
    return Times(
        ms_a_pass=dict(zip(counts, medians, strict=True)),
        clock=clock.name,
        threads=threads,
        batch_size=size,
        rounds=NUM_ROUNDS,
        machine=machine_name(setup.device),
        device=str(setup.device),
    )

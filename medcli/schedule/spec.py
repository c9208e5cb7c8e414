"""Schedules of mediator counts: full attention, one count, or a count that rises by change or progress. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from medcli.errors import ConfigError
from medcli.ladder import check_ladder, check_rungs
from medcli.schedule.dynamic import DynamicSchedule
from medcli.settings.sampling import DEFAULT_WARMUP_STEPS as DEFAULT_WARMUP_STEPS
from medcli.settings.sampling import DistanceName as DistanceName
from medcli.settings.sampling import ScheduleKind as ScheduleKind
from medcli.settings.sampling import ScheduleSettings
from medcli.settings.values import check_as

DEFAULT_RHO = {3: (0.3, 0.1)}
"""Default thresholds by the length of the ladder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The mediator counts of an image and, if there are several, the rule for moving between them.

    Raises:
        ConfigError: If the values contradict each other, or thresholds do not fall.
    """

    kind: ScheduleKind
    """`full`: no mediators; `static`: one count throughout; `dynamic`: from the first count upwards, by the change of
    the image; `timed`: from the first to the last count, by progress."""
    counts: tuple[int, ...] = (0,)
    """Mediator count of each ladder index; 0 is full attention, which may end a ladder of `dynamic` and `timed`."""
    rho: tuple[float, ...] = ()
    """Thresholds of the dynamic schedule, falling, one fewer than the counts."""
    warmup_steps: int = DEFAULT_WARMUP_STEPS
    """Distances averaged into the dynamic schedule's baseline."""
    distance: DistanceName = "l1"
    """`l1`: mean absolute change of the state over a step; `l2`: mean squared change."""
    at: tuple[float, ...] = ()
    """Share of the steps at which each count of the timed schedule after the first starts, rising in (0, 1)."""

    def __post_init__(self) -> None:
        check_as(ScheduleSettings, schedule=self.kind, distance=self.distance, warmup_steps=self.warmup_steps)
        if self.kind == "full" and self.counts != (0,):
            raise ConfigError("--schedule full uses no mediators", hint="leave --mediators out")
        if self.kind == "static" and len(self.counts) != 1:
            given = ",".join(map(str, self.counts))
            raise ConfigError(f"--schedule static takes one mediator count, got {given}", hint="try --schedule dynamic")
        if self.kind == "static" and 0 in self.counts:
            raise ConfigError("a mediator count of 0 is full attention", hint="use --schedule full")
        if self.kind == "static":
            check_ladder(self.counts)
        if self.kind == "timed":
            check_rungs(self.counts)
            _check_starts(len(self.counts), self.at)
        elif self.at:
            raise ConfigError(f"--at is for the timed schedule, not {self.kind}", hint="add --schedule timed")
        if self.kind == "dynamic":
            _check_thresholds(len(self.counts), self.rho)
            self.rule()
        elif self.rho:
            raise ConfigError(f"--rho is for the dynamic schedule, not {self.kind}", hint="add --schedule dynamic")

    @property
    def is_dynamic(self) -> bool:
        """True if an image may move along the ladder by its own change."""
        return self.kind == "dynamic"

    @property
    def is_timed(self) -> bool:
        """True if all images move along the ladder at the same steps."""
        return self.kind == "timed"

    def index_at(self, step: int, num_steps: int) -> int:
        """Return the ladder index of a step of the timed schedule: step k of L starts at progress k / L."""
        return sum(step / num_steps >= start for start in self.at)

    def networks(self, num_steps: int) -> tuple[int, ...]:
        """Return each step's mediator count, 0 for full attention, of a schedule that is the same for all images."""
        return tuple(self.counts[self.index_at(step, num_steps)] for step in range(num_steps))

    def timed_moves(self, num_steps: int) -> tuple[int, ...]:
        """Return the steps whose end moves every image along the ladder of the timed schedule."""
        indices = [self.index_at(step, num_steps) for step in range(num_steps)]
        return tuple(step for step, (now, after) in enumerate(pairwise(indices)) for _ in range(after - now))

    def rule(self) -> DynamicSchedule:
        """Return the dynamic rule.

        Raises:
            ConfigError: If the schedule is not dynamic.
        """
        if not self.is_dynamic:
            raise ConfigError(f"the {self.kind} schedule has no rule")
        return DynamicSchedule(ladder=self.counts, rho=self.rho, warmup_steps=self.warmup_steps)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values without the settings that the kind does not use."""
        own = {"dynamic": ("rho", "warmup_steps", "distance"), "timed": ("at",)}
        used = ("kind", "counts", *own.get(self.kind, ()))
        values = asdict(self)
        return {name: list(values[name]) if isinstance(values[name], tuple) else values[name] for name in used}


FULL = Schedule(kind="full")
"""Full attention in every layer."""


def static(num_mediators: int) -> Schedule:
    """Return the static schedule of one count.

    Raises:
        ConfigError: If it is not a perfect square.
    """
    return Schedule(kind="static", counts=(num_mediators,))


def choose_schedule(
    *,
    kind: str | None,
    counts: tuple[int, ...] | None,
    rho: tuple[float, ...] | None,
    held: tuple[int, ...],
    warmup_steps: int | None = None,
    distance: str | None = None,
    at: tuple[float, ...] | None = None,
) -> Schedule:
    """Choose a schedule, filling in defaults.

    Args:
        kind: One of `ScheduleKind`. None: `timed` if `at` is given, `dynamic` if there are several counts and
            thresholds for them are given or known, else `static` with the largest count, or `full` without mediators.
        counts: Requested counts; None: those of the checkpoint (its largest for `static`).
        rho: Thresholds; None: `DEFAULT_RHO` for a ladder of that length.
        held: The ladder of the checkpoint.
        warmup_steps: Distances in the baseline; None: `DEFAULT_WARMUP_STEPS`.
        distance: `l1` or `l2`; None: `l1`.
        at: Starts of the timed schedule.

    Raises:
        ConfigError: If the values contradict each other or the checkpoint does not hold a count.
    """
    wanted = held if counts is None else counts
    kind = kind or ("timed" if at is not None else _kind_of(wanted, rho))
    if kind != "full":
        check_held(wanted, held)
    if kind == "full":
        return Schedule(kind="full", counts=counts or (0,), rho=rho or (), at=at or ())
    if kind == "static":
        return Schedule(kind="static", counts=_static_counts(counts, held), rho=rho or (), at=at or ())
    if kind == "timed":
        return Schedule(kind="timed", counts=wanted, rho=rho or (), at=at or ())
    return Schedule(
        kind=kind,  # type: ignore[arg-type]  # checked by Schedule itself
        counts=wanted,
        rho=_default_rho(wanted) if rho is None else rho,
        warmup_steps=DEFAULT_WARMUP_STEPS if warmup_steps is None else warmup_steps,
        distance=distance or "l1",  # type: ignore[arg-type]  # likewise
        at=at or (),
    )


def check_held(counts: tuple[int, ...], held: tuple[int, ...]) -> None:
    """Refuse counts that a checkpoint's ladder lacks; full attention (0) is in each.

    Raises:
        ConfigError: Naming the count and the ladder.
    """
    for count in counts:
        if count and count not in held:
            raise ConfigError(
                f"{count} mediators are not in this checkpoint's ladder ({', '.join(map(str, held)) or 'none'})",
                hint=f"try --mediators {','.join(map(str, held))}" if held else "medcli convert --mediators makes one",
            )


def _kind_of(counts: tuple[int, ...], rho: tuple[float, ...] | None) -> ScheduleKind:
    if rho is not None or (len(counts) > 1 and len(counts) in DEFAULT_RHO):
        return "dynamic"
    return "static" if any(counts) else "full"


def _static_counts(counts: tuple[int, ...] | None, held: tuple[int, ...]) -> tuple[int, ...]:
    if counts is not None:
        return counts
    if not held:
        raise ConfigError(
            "this checkpoint has no mediators", hint="use --schedule full, or medcli convert it with --mediators"
        )
    return held[-1:]


def _default_rho(counts: tuple[int, ...]) -> tuple[float, ...]:
    if len(counts) < 2:
        raise ConfigError(
            f"a dynamic schedule needs at least two mediator counts, got {','.join(map(str, counts)) or 'none'}",
            hint="use --schedule static, or medcli convert with a ladder such as --mediators 4,16,64",
        )
    if len(counts) not in DEFAULT_RHO:
        raise ConfigError(f"a ladder of {len(counts)} counts needs --rho", hint=f"try {_example(len(counts) - 1)}")
    return DEFAULT_RHO[len(counts)]


def _check_thresholds(num_counts: int, rho: tuple[float, ...]) -> None:
    """Check the number of thresholds, and that they fall.

    A later threshold that is not lower fires whenever the earlier one does, so the network between them would never
    run: a mistake on a command line, though the rule itself is well defined.
    """
    wanted, given = num_counts - 1, ",".join(map(str, rho)) or "none"
    if len(rho) != wanted:
        raise ConfigError(
            f"--rho {given}: {len(rho)} given, expected {wanted}, one fewer than the ladder's {num_counts} counts",
            hint=f"try {_example(wanted)}" if wanted else "use --schedule static",
        )
    if any(not later < earlier for earlier, later in pairwise(rho)) or any(not value > 0 for value in rho):
        raise ConfigError(f"--rho {given}: thresholds must fall and stay above 0", hint=f"try {_example(wanted)}")


def _check_starts(num_counts: int, at: tuple[float, ...]) -> None:
    """Refuse starts of the timed schedule that do not rise inside (0, 1), one fewer than the counts."""
    wanted, given = num_counts - 1, ",".join(f"{value:g}" for value in at) or "none"
    example = ",".join(f"{(index + 1) / num_counts:.2g}" for index in range(wanted))
    if len(at) != wanted or not at:
        raise ConfigError(
            f"--at {given}: {len(at)} given, expected {wanted}, one fewer than the ladder's {num_counts} counts",
            hint=f"try --at {example}" if wanted > 0 else "a timed schedule needs a ladder such as --mediators 16,full",
        )
    if not all(0 < value < 1 for value in at) or any(not earlier < later for earlier, later in pairwise(at)):
        raise ConfigError(f"--at {given}: shares of the steps must rise between 0 and 1", hint=f"try --at {example}")


def _example(num_thresholds: int) -> str:
    """Return a valid `--rho`."""
    return "--rho " + ",".join(f"{0.5**step:g}" for step in range(1, num_thresholds + 1))

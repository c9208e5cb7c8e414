"""The step-wise dynamic rule: more mediators once the latent changes less. Floats in, ladder index out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from medcli.errors import ConfigError
from medcli.ladder import check_rungs


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """State of the rule for one image."""

    index: int = 0
    """Ladder index at the next step."""
    observed: int = 0
    """Number of distances observed."""
    warmup_sum: float = 0.0
    """Sum of the warm-up distances."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DynamicSchedule:
    """Moves an image up its ladder when its distance per step falls below thresholds.

    The baseline is the mean of the first `warmup_steps` distances. From the next distance on, the image climbs from
    index j to j + 1 while distance < rho[j] x baseline; several moves may happen at once, none is undone. Comparison is
    strict, so ties, zero baselines and NaN never move. Source: reference-facts 4 (golden kind 6).

    Raises:
        ConfigError: If the ladder does not rise, a threshold is negative, or their number is not one less than the
            ladder's length.
    """

    ladder: tuple[int, ...]
    """Mediator counts, rising; 0, full attention, may be the last."""
    rho: tuple[float, ...]
    """Thresholds, one fewer than the ladder; any values >= 0."""
    warmup_steps: int = 3
    """Distances averaged into the baseline, at least 1."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ladder", tuple(self.ladder))
        object.__setattr__(self, "rho", tuple(self.rho))
        check_rungs(self.ladder)
        if not self.ladder or len(self.rho) != len(self.ladder) - 1:
            raise ConfigError(
                f"{len(self.rho)} thresholds for a ladder of {len(self.ladder)}; expected one fewer than its counts",
                hint=f"give {max(len(self.ladder) - 1, 0)} values to --rho",
            )
        if any(not value >= 0 for value in self.rho):
            raise ConfigError(f"thresholds must be >= 0, got {','.join(map(str, self.rho))}")
        if self.warmup_steps < 1:
            raise ConfigError(f"warm-up must be at least 1 step, got {self.warmup_steps}")

    def start(self) -> ScheduleState:
        """Return the state of an image before its first step."""
        return ScheduleState()

    def observe(self, state: ScheduleState, distance: float) -> ScheduleState:
        """Observe one solver step and decide the ladder index of the next.

        Args:
            state: The image's state, not modified.
            distance: Distance between the states after steps k and k - 1, for k = 1, 2, ... (the jump from the
                initial noise is not counted).

        Returns:
            The new state.
        """
        observed = state.observed + 1
        if observed <= self.warmup_steps:
            return replace(state, observed=observed, warmup_sum=state.warmup_sum + distance)
        baseline = state.warmup_sum / self.warmup_steps
        index = state.index
        while index < len(self.rho) and distance < self.rho[index] * baseline:
            index += 1
        return replace(state, observed=observed, index=index)

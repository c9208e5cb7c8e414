"""How near to pure noise and to pure data training and sampling go, where a formula divides by zero at the end.

Source: reference-facts 5.3 and 5.4. Departures, each because the reference breaks there, are in docs/samplers.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from medcli.sampler_config import DiffusionForm, PathName, PredictionName

VP_TRAIN_EPS = 1e-5
TRAIN_EPS = 1e-3
SAMPLE_EPS = 1e-3


@dataclass(frozen=True, slots=True)
class Margins:
    """Distances kept from the singular ends of [0, 1]."""

    train: float
    sample: float


def margins(
    path: PathName, prediction: PredictionName, *, train_eps: float | None = None, sample_eps: float | None = None
) -> Margins:
    """Resolve the margins of a path and a prediction.

    Args:
        path: The interpolant.
        prediction: What the network predicts.
        train_eps: The user's training margin, None for the default.
        sample_eps: The user's sampling margin, None for the default. Each falls back by itself: in SiT's code one given
            value silences or undefines the other.

    Returns:
        Both 0 for velocity on the linear and GVP paths, whatever was given: nothing is singular there.
    """
    if prediction == "velocity" and path != "vp":
        return Margins(0.0, 0.0)
    default_train = VP_TRAIN_EPS if path == "vp" else TRAIN_EPS
    return Margins(
        default_train if train_eps is None else train_eps,
        SAMPLE_EPS if sample_eps is None else sample_eps,
    )


def training_interval(
    path: PathName, prediction: PredictionName, *, train_eps: float | None = None
) -> tuple[float, float]:
    """Times to draw uniformly in training: (t0, t1), t0 nearest the noise."""
    return _smooth_interval(path, prediction, margins(path, prediction, train_eps=train_eps).train)


def ode_interval(path: PathName, prediction: PredictionName, *, sample_eps: float | None = None) -> tuple[float, float]:
    """Ends of the probability-flow ODE, noise end first. Encoding data runs from the second to the first."""
    return _smooth_interval(path, prediction, margins(path, prediction, sample_eps=sample_eps).sample)


def sde_interval(
    path: PathName,
    prediction: PredictionName,
    *,
    form: DiffusionForm,
    last_step_size: float,
    sample_eps: float | None = None,
) -> tuple[float, float]:
    """Ends of the SDE's grid, noise end first.

    Args:
        path: The interpolant.
        prediction: What the network predicts.
        form: Shape of the noise; `sbdm` is infinite at t = 0 on the linear and GVP paths, so it starts a margin later.
        last_step_size: Time left to the last step; 0 where there is none.
        sample_eps: The user's margin, None for the default.
    """
    margin = margins(path, prediction, sample_eps=sample_eps).sample
    end = 1 - (last_step_size or margin)
    if path == "vp" or (prediction == "velocity" and form != "sbdm"):
        return 0.0, end
    # The references force the margin of velocity to 0 and so get NaN from SBDM's first step.
    return margin or (SAMPLE_EPS if sample_eps is None else sample_eps), end


def _smooth_interval(path: PathName, prediction: PredictionName, margin: float) -> tuple[float, float]:
    """Interval without injected noise: the VP path has no singularity at the noise end."""
    start = 0.0 if path == "vp" or prediction == "velocity" else margin
    return start, 1 - margin

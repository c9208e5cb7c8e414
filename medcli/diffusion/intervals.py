"""Time intervals of training and sampling: margins from the ends where formulas are singular.

Source: reference-facts 5.3 and 5.4. Departures, each where the reference fails, are listed in docs/samplers.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from medcli.settings.sampler import DiffusionForm, PathName, PredictionName

VP_TRAIN_EPS = 1e-5
TRAIN_EPS = 1e-3
SAMPLE_EPS = 1e-3


@dataclass(frozen=True, slots=True)
class Margins:
    """Margins from the singular ends of [0, 1]."""

    train: float
    sample: float


def margins(
    path: PathName, prediction: PredictionName, *, train_eps: float | None = None, sample_eps: float | None = None
) -> Margins:
    """Resolve the margins of a path and a prediction.

    Args:
        prediction: What the network predicts.
        train_eps: The user's training margin, None for the default.
        sample_eps: The user's sampling margin, None for the default. Each falls back by itself: in SiT's code one given
            value silences or undefines the other.

    Returns:
        Both 0 for velocity on the linear and GVP paths, which have no singularity, whatever was given.
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
    """Return the interval of training times, (t0, t1), noise end first."""
    return _smooth_interval(path, prediction, margins(path, prediction, train_eps=train_eps).train)


def ode_interval(path: PathName, prediction: PredictionName, *, sample_eps: float | None = None) -> tuple[float, float]:
    """Return the interval of the probability-flow ODE, noise end first; encoding runs it backwards."""
    return _smooth_interval(path, prediction, margins(path, prediction, sample_eps=sample_eps).sample)


def sde_interval(
    path: PathName,
    prediction: PredictionName,
    *,
    form: DiffusionForm,
    last_step_size: float,
    sample_eps: float | None = None,
) -> tuple[float, float]:
    """Return the interval of the SDE's grid, noise end first.

    Args:
        prediction: What the network predicts.
        form: Shape of the noise; `sbdm` is infinite at t = 0 on the linear and GVP paths, so it starts a margin later.
        last_step_size: Time covered by the last step; 0: no last step.
        sample_eps: The user's margin, None for the default.
    """
    margin = margins(path, prediction, sample_eps=sample_eps).sample
    end = 1 - (last_step_size or margin)
    if path == "vp" or (prediction == "velocity" and form != "sbdm"):
        return 0.0, end
    # The references force the margin of velocity to 0 and so get NaN from SBDM's first step.
    return margin or (SAMPLE_EPS if sample_eps is None else sample_eps), end


def _smooth_interval(path: PathName, prediction: PredictionName, margin: float) -> tuple[float, float]:
    """Return the interval without injected noise; the VP path has no singularity at the noise end."""
    start = 0.0 if path == "vp" or prediction == "velocity" else margin
    return start, 1 - margin

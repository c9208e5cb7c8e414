from __future__ import annotations

import pytest

from medcli.diffusion.intervals import margins, ode_interval, sde_interval, training_interval


def test_one_given_margin_leaves_the_other_at_its_default() -> None:
    """SiT ignores a lone sample_eps and leaves sample_eps undefined after a lone train_eps."""
    assert margins("linear", "noise", sample_eps=0.02).train == 1e-3
    assert margins("linear", "noise", sample_eps=0.02).sample == 0.02
    assert margins("vp", "velocity", train_eps=0.01).sample == 1e-3
    assert margins("vp", "velocity").train == 1e-5


def test_velocity_has_no_margin_where_nothing_is_singular() -> None:
    assert margins("gvp", "velocity", train_eps=0.1, sample_eps=0.1) == margins("gvp", "velocity")
    assert training_interval("gvp", "velocity", train_eps=0.1) == ode_interval("linear", "velocity") == (0.0, 1.0)


def test_sbdm_starts_after_its_singularity() -> None:
    assert sde_interval("linear", "velocity", form="sbdm", last_step_size=0.04) == pytest.approx((1e-3, 0.96))
    assert sde_interval("vp", "velocity", form="sbdm", last_step_size=0.04) == pytest.approx((0.0, 0.96))


def test_a_last_step_smaller_than_the_margin_is_still_kept() -> None:
    assert sde_interval("linear", "noise", form="sigma", last_step_size=5e-4) == pytest.approx((1e-3, 1 - 5e-4))

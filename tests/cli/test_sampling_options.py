"""How the flags of `sample`, `tune` and `analyze` become a request."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from medcli.cli.sample import sample
from medcli.cli.sampling_options import sampling_request
from medcli.errors import ConfigError
from medcli.workflows.sample.settings import SampleRequest

FIELDS = {"heads": "num_heads", "stage": "stages", "amm_blocks": "amm", "amm_form": "amm"}
"""Fields of the request whose flags are called otherwise."""


def test_every_flag_of_sample_is_a_field_of_the_request_and_the_other_way_round() -> None:
    flags = {FIELDS.get(name, name) for name in inspect.signature(sample).parameters} - {"ctx"}
    assert flags == {field.name for field in fields(SampleRequest)}


def test_text_is_read_and_the_rest_taken_as_it_is() -> None:
    given = {
        "heads": 6, "num_images": 5, "mediators": "4,16", "rho": "0.3", "classes": "1,2", "cfg_interval": "0.2,0.8",
        "steps": 7, "output": Path("here"), "quiet": True,
    }  # fmt: skip
    assert sampling_request(given) == SampleRequest(
        num_heads=6,
        num_images=5,
        mediators=(4, 16),
        rho=(0.3,),
        classes=(1, 2),
        cfg_interval=(0.2, 0.8),
        steps=7,
        output=Path("here"),
    )


def test_what_the_command_decides_itself_is_not_even_read() -> None:
    given = {"heads": None, "num_images": None, "mediators": "auto", "classes": "all"}
    request = sampling_request(given, num_images=3, mediators=None, schedule="full")
    assert request == SampleRequest(num_images=3, schedule="full")


def test_text_that_cant_be_read_names_its_flag() -> None:
    with pytest.raises(ConfigError, match="--classes"):
        sampling_request({"heads": None, "num_images": 1, "classes": "cat"})

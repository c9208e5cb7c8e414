"""Versions that results are written with."""

from __future__ import annotations

import platform

import numpy as np
import torch

import medcli
from medcli.runtime.versions import versions


def test_versions_are_those_that_run() -> None:
    assert versions() == {
        "medcli": medcli.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    assert versions("numpy")["numpy"] == np.__version__

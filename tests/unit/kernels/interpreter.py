"""Triton's interpreter, in which kernels run on the CPU; imported before any kernel. Skips tests without Triton."""

import os

import pytest

os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

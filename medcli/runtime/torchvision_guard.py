"""Make torchvision importable beside a torch it was not linked against.

PyPI's torchvision is linked against CUDA torch. Beside a CPU torch its operator library does not load, and its import
fails on the first operator it describes (`operator torchvision::nms does not exist`), although nothing here calls one.
"""

from __future__ import annotations

import importlib
from functools import cache

import torch

MISSING_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""Operators torchvision 0.28 describes at import; the schemas are those of its own library."""


def import_torchvision() -> None:
    """Import torchvision; if its library did not load, declare the operators whose absence fails the import.

    Call it before importing anything that imports torchvision. Existing operators are kept: others are declared
    only after an import has failed without them.

    Raises:
        ImportError: If torchvision is not installed.
        RuntimeError: If its import fails for another reason.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as err:
        if "operator torchvision::" not in str(err):
            raise
        _declare_operators()
        importlib.import_module("torchvision")


@cache  # the declarations last as long as the library object, so it is kept for the life of the process
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in MISSING_SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.split("(")[0]):
            library.define(schema)
    return library

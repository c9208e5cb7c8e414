from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from medcli.runtime import torchvision_guard


def failing_import(failures: list[Exception], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let imports fail with these errors, one a call, and list what is declared."""
    declared: list[str] = []

    def import_module(_name: str) -> Any:
        if failures:
            raise failures.pop(0)

    monkeypatch.setattr(torchvision_guard.importlib, "import_module", import_module)
    monkeypatch.setattr(torchvision_guard, "_declare_operators", lambda: declared.append("operators"))
    return declared


@pytest.mark.slow
def test_torch_fidelity_imports_in_a_fresh_process() -> None:
    code = (
        "from medcli.runtime.torchvision_guard import import_torchvision; import_torchvision(); import_torchvision();"
        "import torch_fidelity, torch; torch.ops.torchvision.nms; torch.ops.torchvision.qnms"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_nothing_is_declared_where_torchvision_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = failing_import([], monkeypatch)
    torchvision_guard.import_torchvision()
    assert not declared


def test_missing_operators_are_declared_and_the_import_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = [RuntimeError("operator torchvision::nms does not exist")]
    declared = failing_import(failures, monkeypatch)
    torchvision_guard.import_torchvision()
    assert declared == ["operators"]
    assert not failures


@pytest.mark.parametrize("error", [RuntimeError("undefined symbol"), ImportError("No module named 'torchvision'")])
def test_other_failures_are_passed_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = failing_import([error], monkeypatch)
    with pytest.raises(type(error), match=str(error)):
        torchvision_guard.import_torchvision()
    assert not declared

import pytest
import torch

from medcli.runtime import precision
from medcli.runtime.precision import multiplies_bfloat16, warn_if_slow
from medcli.runtime.reporting import Silent

CPU = torch.device("cpu")


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_other_devices_are_taken_to_have_bfloat16() -> None:
    assert multiplies_bfloat16(torch.device("cuda"))


@pytest.mark.parametrize("asked", [True, False])
def test_a_cpu_is_asked(monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: asked)
    assert multiplies_bfloat16(CPU) is asked


def test_a_torch_that_cant_be_asked_is_taken_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not multiplies_bfloat16(CPU)


@pytest.mark.parametrize(
    ("dtype", "has_bfloat16", "warns"),
    [(torch.bfloat16, False, True), (torch.bfloat16, True, False), (torch.float32, False, False)],
)
def test_only_a_slow_number_format_is_warned_of_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, has_bfloat16: bool, warns: bool
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: has_bfloat16)
    notes = Notes()
    warn_if_slow(dtype, CPU, notes)
    assert len(notes.notes) == warns
    assert all("--dtype bf16" in note and note.endswith("use --dtype fp32") for note in notes.notes)

import pytest
import torch

from medcli.errors import ConfigError
from medcli.runtime import precision
from medcli.runtime.precision import float32_products, multiplies_bfloat16, number_format, products_of, warn_if_slow
from medcli.runtime.reporting import Silent

CPU = torch.device("cpu")


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    warn = note


def test_a_gpu_is_asked_without_counting_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: asked.append(including_emulation))
    assert not multiplies_bfloat16(torch.device("cuda"))
    assert asked == [False]
    assert multiplies_bfloat16(torch.device("mps"))


@pytest.mark.parametrize(
    ("name", "device", "has_bfloat16", "expected"),
    [
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda", False, "fp32"),
        ("auto", "cpu", True, "fp32"),
        ("bf16", "cpu", False, "bf16"),
        ("fp16", "cuda:1", False, "fp16"),
        ("tf32", "cuda", True, "tf32"),
    ],
)
def test_the_number_format_is_the_devices_fastest_that_is_accurate_enough(
    monkeypatch: pytest.MonkeyPatch, name: str, device: str, has_bfloat16: bool, expected: str
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: has_bfloat16)
    assert number_format(name, torch.device(device)) == expected


@pytest.mark.parametrize("name", ["fp16", "tf32"])
def test_a_format_of_cuda_is_refused_elsewhere(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--dtype {name} needs a CUDA device") as caught:
        number_format(name, CPU)
    assert caught.value.hint


def test_one_switch_rounds_products_and_convolutions_and_is_put_back() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for context, expected in (
        (products_of("tf32"), ("high", True)),
        (products_of("fp32"), ("highest", False)),
        (products_of("bf16"), ("highest", False)),
        (float32_products("highest"), ("highest", False)),
    ):
        with context:
            assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == expected
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


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

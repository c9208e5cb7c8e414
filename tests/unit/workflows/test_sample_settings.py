import pytest

from digits_model import MODEL
from medcli.presets import preset_config
from medcli.workflows.sample.plan import default_batch_size


@pytest.mark.parametrize(
    ("preset", "resolution_px", "on_cpu", "on_gpu"),
    [
        ("SiT-S/2", 256, 8, 256),
        ("SiT-S/2", 512, 2, 64),
        ("SiT-S/8", 256, 32, 256),
        ("SiT-XL/2", 256, 2, 256),
        ("SiT-XL/2", 1024, 1, 16),
    ],
)
def test_a_batch_is_as_large_as_pays(preset: str, resolution_px: int, on_cpu: int, on_gpu: int) -> None:
    config = preset_config(preset).at_resolution(resolution_px)
    assert default_batch_size(config, "cpu") == default_batch_size(config, "mps") == on_cpu
    assert default_batch_size(config, "cuda") == on_gpu


def test_the_digits_are_sampled_32_at_a_time() -> None:
    """What the figures in the README and of `medcli demo` were made with."""
    assert default_batch_size(MODEL, "cpu") == 32

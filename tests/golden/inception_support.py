"""The Inception network with the golden set's random weights: the published ones are not ours to ship."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcli.runtime.torchvision_guard import import_torchvision

DATA = Path(__file__).parent / "data"
METRICS = DATA / "golden-metrics"


def expected(name: str = "expected.json") -> dict[str, Any]:
    return json.loads((METRICS / name).read_text())


def random_tensor(key: str, shape: tuple[int, ...], base_seed: int) -> torch.Tensor:
    """One tensor of the random Inception weights, as the golden README makes it."""
    random = np.random.RandomState((zlib.crc32(key.encode("ascii")) + base_seed) % 2**32)
    if key.endswith(".conv.weight"):
        values = random.standard_normal(shape) * math.sqrt(1.75 / math.prod(shape[1:]))
    elif key == "fc.weight":
        values = random.standard_normal(shape) * 0.05
    else:
        ranges = {"bn.weight": (0.8, 1.2), "running_var": (0.5, 1.5), "fc.bias": (-0.5, 0.5)}
        low, high = next((ends for name, ends in ranges.items() if key.endswith(name)), (-0.2, 0.2))
        values = random.uniform(low, high, shape)
    return torch.from_numpy(values.astype(np.float32))


def random_weights() -> dict[str, torch.Tensor]:
    """All tensors of the network, checked against the golden set's hash of them."""
    with pytest.MonkeyPatch.context() as patch:  # names and shapes, without the weights its constructor would fetch
        patch.setattr(_network_class(), "load_state_dict", lambda *_: None)
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: None)
        state = _network_class()("shapes", ["2048"]).state_dict()
    entry = expected("expected_inception.json")["weights"]
    keys = sorted(key for key in state if not key.endswith("num_batches_tracked"))
    weights = {key: random_tensor(key, tuple(state[key].shape), entry["base_seed"]) for key in keys}
    digest = hashlib.sha256()
    for key in keys:
        digest.update(weights[key].numpy().tobytes())
    assert digest.hexdigest() == entry["sha256_of_concatenated_sorted_float32_bytes"]
    return weights


def fidelitys_own(weights: Path) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """torch-fidelity's network as it comes: pool features and logits without bias of (B, 3, Y, X) uint8."""
    network = _network_class()("own", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights))
    return torch.inference_mode()(network)  # type: ignore[no-any-return]


def _network_class() -> Any:
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3

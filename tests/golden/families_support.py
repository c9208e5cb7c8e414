"""Networks of the EDT fixtures, built from what the references recorded about them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from medcli.config import ModelConfig
from medcli.model.amm import Amm, attach_amm
from medcli.model.backbone import DiffusionTransformer, empty_model

DATA = Path(__file__).parent / "data" / "golden-edt"
FORMS = {"exp": "exp", "cos13": "cos"}


def settings_of(name: str) -> dict[str, Any]:
    return json.loads((DATA / name / "config.json").read_text())


def config_of(name: str) -> ModelConfig:
    made = settings_of(name)["constructor"]
    family = {"edt": "edt", "mdt": "mdtv2", "dit": "dit"}[name[:3]]
    own: dict[str, Any] = {}
    if family == "edt":
        own = {
            "stage_depths": tuple(made["stages_depth"]),
            "stage_widths": tuple(made["dims"]),
            "stage_heads": tuple(made["num_heads"]),
        }
    if family == "mdtv2":
        own = {"decoder_depth": made["decode_layer"]}
    return ModelConfig(
        family=family,
        hidden_size=made["hidden_size"],
        depth=made["depth"],
        num_heads=own["stage_heads"][0] if family == "edt" else made["num_heads"],
        patch_size=made["patch_size"],
        latent_size=made["input_size"],
        in_channels=made["in_channels"],
        mlp_ratio=made.get("mlp_ratio", 4.0),
        num_classes=made["num_classes"],
        has_null_class=made.get("class_dropout_prob", 0.1) > 0,
        learn_sigma=made.get("learn_sigma", True),
        **own,
    )


def amm_of(name: str, variant: str) -> Amm | None:
    described = settings_of(name)["amm_variants"][variant]
    return Amm(blocks=tuple(described["blocks"]), form=FORMS[described["form"]]) if described["blocks"] else None


def network(name: str, amm: Amm | None = None, dtype: torch.dtype = torch.float32) -> DiffusionTransformer:
    """The network of a folder; the only tensors left out are the offsets a model needs no copy of."""
    weights = load_file(DATA / name / "weights.safetensors")
    model = empty_model(config_of(name))
    model.load_state_dict({key: value for key, value in weights.items() if "position_index" not in key}, assign=True)
    model.to(dtype)
    if amm is not None:
        attach_amm(model, amm)
    return model


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """As the fixtures define it: the largest difference by the largest value."""
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())

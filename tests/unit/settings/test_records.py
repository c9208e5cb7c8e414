"""What decides images is listed once: folders are compared by it, and commands and `--config` repeat it."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medcli.checkpoint.writer import save_checkpoint
from medcli.config import ModelConfig
from medcli.engine.plan import Labels, SamplingPlan
from medcli.engine.plan_file import plan_file, write_plan
from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer, initialise
from medcli.schedule.spec import FULL
from medcli.settings.build import build
from medcli.settings.declare import settings_of
from medcli.settings.records import IMAGE_VALUES, given_values, image_values, manifest_values, repeated_command
from medcli.settings.sampler import SamplerConfig
from medcli.settings.sampling import SampleRequest
from medcli.settings.values import from_json, parse_text
from medcli.workflows.sample.settings import image_settings, set_up
from tests.unit.checkpoint.builders import save_flat, save_training
from tests.unit.engine.tiny import PIXELS

DIT = ModelConfig(
    family="dit", depth=3, hidden_size=16, num_heads=2, in_channels=1, latent_size=8, patch_size=2, num_classes=10,
    autoencoder=None, latent_scale=1.0, latent_downsample=1,
)  # fmt: skip
DYNAMIC = {"schedule": "dynamic", "rho": (0.9, 0.5)}
ODD = 1.2345678901234567
"""A number that six digits do not hold."""

CHANGES: dict[str, list[dict[str, Any]]] = {
    "checkpoint": [{"checkpoint": "other.safetensors"}],
    "stage": [{"stage": {1: Path("n1.safetensors"), 4: Path("n4.safetensors")}, "rho": (0.5,)}],
    "family": [{"checkpoint": "flat.pt", "family": "dit", "heads": 2}],
    "heads": [{"checkpoint": "flat.pt", "family": "sit", "heads": heads} for heads in (2, 4)],
    "weights": [{"checkpoint": "training.pt", "family": "sit", "heads": 2, "weights": "model"}],
    "schedule": [{"schedule": "full"}, {"schedule": "static"}],
    "mediators": [{"mediators": (1, 4), "rho": (0.5,)}, {"schedule": "static", "mediators": (4,)}],
    "rho": [{"rho": (ODD, 0.3)}],
    "warmup_steps": [{**DYNAMIC, "warmup_steps": 4}],
    "distance": [{**DYNAMIC, "distance": "l2"}],
    "at": [{"schedule": "timed", "at": (0.25, ODD / 2)}, {"mediators": (1, 0), "at": (0.5,)}],
    "grid": [{"checkpoint": "dit.safetensors", "sampler": "ddim", "solver": "multistep2", "grid": "logsnr"}],
    "steps": [{"steps": 33}],
    "sampler": [{"sampler": "ode", "schedule": "full"}, {"checkpoint": "dit.safetensors", "sampler": "ddim"}],
    "solver": [{"solver": "heun"}, {"sampler": "ode", "solver": "dopri5", "schedule": "full"}, {"solver": "exp3"}],
    "path": [{"path": "gvp"}],
    "prediction": [{"prediction": "noise"}],
    "diffusion_form": [{"diffusion_form": "linear"}],
    "diffusion_norm": [{"diffusion_norm": ODD}],
    "last_step": [
        {"last_step": "tweedie"}, {"last_step": "none"},
        {"sampler": "ode", "solver": "heun", "schedule": "full", "last_step": "euler"},
    ],
    "time_shift": [{"sampler": "ode", "schedule": "full", "time_shift": ODD}],
    "last_step_size": [{"last_step_size": 0.123456789012}],
    "cfg_scale": [{"cfg_scale": ODD}],
    "cfg_channels": [{"cfg_scale": 2.0, "cfg_channels": "3"}],
    "cfg_interval": [{"cfg_scale": 2.0, "cfg_interval": (0.123456789, 0.8)}],
    "cfg_power": [{"checkpoint": "dit.safetensors", "cfg_scale": 2.0, "cfg_power": ODD}],
    "amm": [{"schedule": "full", "mediators": None, "checkpoint": "dit.safetensors", "amm": ODD, "amm_blocks": (1,)}],
    "amm_blocks": [{"checkpoint": "dit.safetensors", "amm": "auto", "amm_blocks": (0, 2)}],
    "amm_form": [{"checkpoint": "dit.safetensors", "amm": "auto", "amm_blocks": (1,), "amm_form": "cos"}],
    "classes": [{"classes": (3, 5, 3)}, {"classes": tuple(range(9))}],
    "label_sampling": [{"label_sampling": "random"}],
    "plan": [{"plan": Path("plan.json")}],
    "seed": [{"seed": 2**64 - 1}],
    "vae": [{"checkpoint": "latents.safetensors", "vae": "some/folder"}],
    "dtype": [{"dtype": "bf16"}],
}  # fmt: skip
"""Requests that differ from each other by every deciding setting."""


@pytest.fixture(autouse=True, scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("records")

    def save(name: str, config: ModelConfig, seed: int = 0) -> None:
        model = DiffusionTransformer(config)
        initialise(model, seed)
        save_checkpoint(folder / name, config, dict(model.state_dict()))

    ladder = replace(PIXELS, mediators=(1, 4, 16))
    save("m.safetensors", ladder)
    save("other.safetensors", ladder, seed=1)
    save("n1.safetensors", replace(ladder, mediators=(1,)))
    save("n4.safetensors", replace(ladder, mediators=(4,)))
    save("dit.safetensors", DIT)
    save("latents.safetensors", replace(DIT, autoencoder="some/vae", in_channels=4, latent_downsample=8))
    (folder / "some/folder").mkdir(parents=True)
    (folder / "some/folder/config.json").write_text(json.dumps({"block_out_channels": [4] * 4, "scaling_factor": 0.5}))
    save_flat(folder / "flat.pt")
    save_training(folder / "training.pt")
    sampler = SamplerConfig(sampler="ode", solver="adams4", steps=7)
    plan = SamplingPlan(sampler=sampler, schedule=FULL, labels=Labels(classes=(0,)))
    write_plan(folder / "plan.json", plan_file(plan, ladder))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def request_of(given: dict[str, Any]) -> SampleRequest:
    base = {} if {"checkpoint", "stage"} & set(given) else {"checkpoint": "m.safetensors"}
    return build(SampleRequest, {**base, **{key: value for key, value in given.items() if value is not None}})


def identity(request: SampleRequest) -> dict[str, Any]:
    return json.loads(json.dumps(image_settings(set_up(request, "cpu"), request)))


CASES = [pytest.param(key, given, id=f"{key}-{n}") for key, cases in CHANGES.items() for n, given in enumerate(cases)]


def test_every_deciding_setting_has_a_case() -> None:
    deciding = {key for key, made in settings_of(SampleRequest).items() if made.decides}
    assert deciding == set(CHANGES) == set(IMAGE_VALUES)


def test_each_case_is_another_run() -> None:
    found = [json.dumps(identity(request_of(given)), sort_keys=True) for cases in CHANGES.values() for given in cases]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("key", "given"), CASES)
def test_the_record_repeats_the_run(key: str, given: dict[str, Any]) -> None:
    request = request_of(given)
    settings, hints = identity(request), given_values(request)
    values = image_values(settings, json.loads(json.dumps(hints)))
    declared = settings_of(SampleRequest)
    again = build(SampleRequest, {name: from_json(declared[name], value) for name, value in values.items()})
    assert identity(again) == settings


@pytest.mark.parametrize(("key", "given"), CASES)
def test_the_command_repeats_the_run(key: str, given: dict[str, Any]) -> None:
    request = request_of(given)
    settings = identity(request)
    words = shlex.split(repeated_command("sample", SampleRequest, image_values(settings, given_values(request))))
    assert words[:2] == ["medcli", "sample"]
    declared = {spelling: made for made in settings_of(SampleRequest).values() for spelling in made.spellings}
    texts, rest = dict[str, Any](), words[2:]
    while rest:
        word = rest.pop(0)
        if word not in declared:
            texts["checkpoint"] = word
        elif declared[word].key == "stage":
            count, _, path = rest.pop(0).partition("=")
            texts.setdefault("stage", {})[int(count)] = Path(path)
        else:
            texts[declared[word].key] = parse_text(declared[word], rest.pop(0))
    assert identity(build(SampleRequest, texts)) == settings


def test_settings_of_the_machine_and_the_output_are_not_part_of_the_identity() -> None:
    plain = identity(request_of({}))
    given = {"batch_size": 3, "device": "cpu", "compile": True, "npz": True, "num_images": 7, "output": Path("x")}
    given |= {"save_plan": Path("p.json"), "download": True, "latents": True, "shard": "1/2", "dry_run": True}
    assert {key for key, made in settings_of(SampleRequest).items() if not made.decides} == set(given)
    assert identity(request_of(given)) == plain


@pytest.mark.parametrize("content", [{}, {"settings": {}}, {"format_version": 1, "settings": [], "run": {}}])
def test_other_objects_are_no_manifest(content: dict[str, Any]) -> None:
    assert manifest_values(content, Path("x.json")) is None


def test_a_damaged_manifest_is_named() -> None:
    with pytest.raises(ConfigError, match=r"x\.json is not a manifest"):
        manifest_values({"format_version": 1, "settings": {"checkpoints": 3}, "run": {}}, Path("x.json"))

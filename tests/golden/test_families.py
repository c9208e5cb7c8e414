"""EDT, MDTv2 and attention modulation against tensors recorded from the references (golden-edt)."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import medcli
from medcli.cost.macs import macs_by_operator
from medcli.cost.traced_macs import trace_costs
from medcli.diffusion.guidance import combine
from medcli.engine.generate import generate
from medcli.engine.networks import Guidance, guided, ladder_networks
from medcli.engine.plan import Labels, SamplingPlan
from medcli.model.amm import modulation_matrix
from medcli.model.backbone import DiffusionTransformer, initialise
from medcli.model.grid_tables import position_table
from medcli.model.layout import num_params, tensor_shapes
from medcli.presets import preset_config
from medcli.schedule.spec import FULL
from medcli.settings.sampler import SamplerConfig
from tests.golden.families_support import DATA, FORMS, amm_of, config_of, network, relative_error, settings_of

NETWORKS = ["edt_s", "edt_xl", "edt_3stage", "mdtv2", "dit_xl", "dit_s"]
VARIANTS = [(name, variant) for name in NETWORKS for variant in settings_of(name)["amm_variants"]]
AMM_TABLES = json.loads((DATA / "amm" / "amm.json").read_text())
COSTS = json.loads((DATA / "macs.json").read_text())["models"]
FLOAT32 = 2e-5
FLOAT64 = 1e-10


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
@torch.no_grad()
def test_forward_equals_the_reference_with_and_without_modulation(name, variant):
    io = load_file(DATA / name / "io.safetensors")
    model = network(name, amm_of(name, variant))
    assert relative_error(model(io["x"], io["t"], io["y"]), io[f"out_{variant}"]) < FLOAT32
    if f"out_{variant}_f64" in io:
        wide = network(name, amm_of(name, variant), torch.float64)
        assert relative_error(wide(io["x"].double(), io["t"], io["y"]), io[f"out_{variant}_f64"]) < FLOAT64


@pytest.mark.parametrize("name", ["edt_s", "edt_xl", "edt_3stage"])
@torch.no_grad()
def test_every_stage_of_an_edt_equals_the_reference(name):
    io, settings = load_file(DATA / name / "io.safetensors"), settings_of(name)
    model = network(name, amm_of(name, settings["trace_variant"]))
    seen: dict[str, torch.Tensor] = {}
    last = [
        sum(settings["constructor"]["stages_depth"][: stage + 1]) - 1 for stage in range(len(model.config.stage_depths))
    ]
    watched = {f"stage.{stage}": model.blocks[layer] for stage, layer in enumerate(last)}
    watched |= {"t_emb": model.t_embedder, "y_emb": model.y_embedder}
    for group in ("down_blocks", "up_blocks", "concat_blocks"):
        watched |= {f"{group}.{place}": part for place, part in enumerate(model.get_submodule(group))}
    for key, module in watched.items():
        module.register_forward_hook(lambda _module, _inputs, output, key=key: seen.update({key: output}))
    model(io["x"], io["t"], io["y"])
    traced = [key.removeprefix("trace.") for key in io if key.startswith("trace.")]
    assert set(seen) | {"tokens_in", "c"} == set(traced)
    for key, value in seen.items():
        assert relative_error(value, io[f"trace.{key}"]) < FLOAT32, key


@pytest.mark.parametrize("name", ["edt_s", "edt_xl", "dit_xl", "dit_s"])
@torch.no_grad()
def test_guided_output_equals_the_reference(name):
    io, checked = load_file(DATA / name / "io.safetensors"), 0
    for variant in settings_of(name)["amm_variants"]:
        model = network(name, amm_of(name, variant))
        null = torch.full_like(io["y"], model.config.null_class)
        cond, uncond = (model(io["x"], io["t"], label) for label in (io["y"], null))
        for scale in settings_of(name)["cfg_scales"]:
            if (key := f"cfg_{variant}_s{scale}") in io:
                guided = combine(cond, uncond, scale, 3, latent_channels=model.config.in_channels)
                assert relative_error(guided, io[key][: len(guided)]) < FLOAT32
                checked += 1
    assert checked


@torch.no_grad()
def test_guidance_of_mdtv2_grows_with_the_timestep_as_in_the_reference():
    io, settings = load_file(DATA / "mdtv2" / "io.safetensors"), settings_of("mdtv2")
    for variant in settings["amm_variants"]:
        (stage,) = ladder_networks(network("mdtv2", amm_of("mdtv2", variant)), (0,))
        for scale in settings["cfg_scales"]:
            for power in settings["cfg_powers"]:
                predict = guided(stage, io["y"], Guidance(scale=scale, power=power))
                output = predict(io["x"], io["t"])
                assert relative_error(output, io[f"cfg_{variant}_s{scale}_p{power}"][: len(output)]) < FLOAT32


@pytest.mark.parametrize(("folder", "weights"), [("masked_s", "edt_s"), ("masked_xl", "edt_xl")])
@torch.no_grad()
def test_masked_passes_of_an_edt_equal_the_reference(folder, weights):
    io, model = load_file(DATA / folder / "io.safetensors"), network(weights)
    masks = {key.removeprefix("keep."): value for key, value in io.items() if key.startswith("keep.")}
    for kind, used in (("full", {}), ("masked", masks)):
        label = torch.where(io[f"label_drop_{kind}"], model.config.null_class, io["y"])
        out = model(io[f"x_t_{kind}"], io["t"], label, masks=used)
        assert relative_error(out, io[f"model_out_{kind}"]) < FLOAT32


@torch.no_grad()
def test_the_masked_pass_of_mdtv2_equals_the_reference():
    io, model = load_file(DATA / "mdtv2" / "io.safetensors"), network("mdtv2")
    label = torch.where(io["mask.label_drop"].bool(), model.config.null_class, io["mask.y"])
    out = model(io["x"], io["t"], label, masks={"input": io["mask.ids_keep"]})
    assert relative_error(out, io["mask.out"]) < FLOAT32


@pytest.mark.parametrize("tag", AMM_TABLES)
def test_modulation_matrices_equal_the_reference(tag):
    described, tables = AMM_TABLES[tag], load_file(DATA / "amm" / "amm.safetensors")
    side = described["n"]
    radius = None if tag.endswith(("default", "cos13")) else math.sqrt(described["R_squared"])
    matrix = torch.from_numpy(modulation_matrix(side, radius, FORMS[described["form"]]))
    assert int((matrix > 0).sum()) == described["kept_pairs"]
    # Row 0 holds the value of each offset from the first token.
    expected = (
        tables[f"{tag}.table_f64"] if f"{tag}.table_f64" in tables else tables[f"{tag}.full_f64"][0].view(side, side)
    )
    torch.testing.assert_close(matrix[0].view(side, side), expected, rtol=0, atol=1e-13)
    if f"{tag}.full_f64" in tables:
        torch.testing.assert_close(matrix, tables[f"{tag}.full_f64"], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", COSTS)
def test_parameters_and_macs_of_full_size_models_equal_the_reference(name):
    model, _, rest = name.partition("@")
    resolution, _, decoder = rest.partition(" dec")
    config = preset_config(model.removesuffix("_noAMM"), resolution_px=int(resolution))
    config = replace(config, decoder_depth=int(decoder)) if decoder else config
    counted = macs_by_operator(config)
    assert counted.pop("layer_norm") == COSTS[name]["fvcore_layer_norm"]
    assert sum(counted.values()) == COSTS[name]["macs"]
    assert num_params(config) == COSTS[name]["params_total"]


@pytest.mark.parametrize("name", ["edt_s", "edt_3stage", "mdtv2"])
def test_the_trace_and_the_closed_form_agree_for_each_family(name):
    config = config_of(name)
    costs = trace_costs(config, (0, 4))
    with_mediators = replace(config, mediators=(4,), mediator_layers=(0, config.depth - 1))
    for sized in (config, with_mediators, with_mediators.at_resolution(2 * config.resolution_px)):
        for count in {0, *sized.mediators}:
            assert costs.macs(sized, count) > 0  # raises where the two disagree


@pytest.mark.parametrize("path", sorted((DATA / "manifests").glob("*.json")), ids=lambda path: path.stem)
def test_every_tensor_of_full_size_models_is_known_by_name_and_shape(path):
    family, size, side, *decoder = path.stem.split("_")
    config = preset_config(f"{family}-{size}", resolution_px=int(side))
    config = replace(config, decoder_depth=int(decoder[0][3:])) if decoder else config
    keys = json.loads(path.read_text())["keys"]
    listed = {name: tuple(shape) for name, shape in keys.items() if "position_index" not in name}
    assert tensor_shapes(config) == listed


@pytest.mark.parametrize(("family", "name"), [("dit", "dit_s"), ("edt", "edt_s"), ("mdtv2", "mdtv2")])
def test_fresh_weights_start_as_in_the_reference(family, name):
    spec = json.loads((DATA / "init" / "init.json").read_text())[family]
    model = DiffusionTransformer(config_of(name))
    initialise(model, seed=0)
    checked = 0
    for key, parameter in model.named_parameters():
        if key not in spec:
            continue
        checked += 1
        kind, value = spec[key]["init"], parameter.detach()
        assert parameter.requires_grad is spec[key]["trainable"], key
        largest = float(value.abs().max())
        if kind == "zeros":
            assert largest == 0, key
        elif kind == "normal":
            assert 0.3 * 0.02 < float(value.std()) < 2 * 0.02, key
        elif kind == "xavier_uniform":
            bound = math.sqrt(6 / (len(value) + value[0].numel()))
            assert 0.8 * bound < largest <= bound, key
        else:
            side = math.isqrt(value.shape[1])
            assert torch.equal(value[0], torch.from_numpy(position_table(value.shape[2], side))), key
    assert checked > len(spec) // 2


@torch.no_grad()
def test_a_training_checkpoint_of_the_reference_gives_both_weight_sets(tmp_path):
    import argparse

    info = json.loads((DATA / "training" / "checkpoint.json").read_text())
    tensors = load_file(DATA / "training" / "checkpoint.safetensors")
    sets: dict[str, dict[str, torch.Tensor]] = {"model": {}, "ema": {}}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        group, *rest = key.split("/")
        if group == "opt":
            state.setdefault(int(rest[1]), {})[rest[2]] = value
        else:
            sets[group][rest[0]] = value
    content = {**sets, "opt": {"state": state, "param_groups": info["opt_param_groups"]}}
    torch.save({**content, "args": argparse.Namespace(**info["args"])}, tmp_path / "0000007.pt")
    io = load_file(DATA / "training" / "checkpoint_io.safetensors")
    for weights in ("ema", "model"):
        model = medcli.load(tmp_path / "0000007.pt", weights=weights)
        assert relative_error(model(io["x"], io["t"], io["y"]), io[f"out_{weights}"]) < FLOAT32


@pytest.mark.parametrize("name", ["edt_s", "edt_xl", "edt_3stage", "mdtv2"])
@torch.no_grad()
def test_a_family_is_told_from_its_tensors_alone(name, tmp_path):
    save_file(load_file(DATA / name / "weights.safetensors"), tmp_path / "weights.safetensors")
    loaded = medcli.load(tmp_path / "weights.safetensors")
    expected = config_of(name)
    told = replace(expected, autoencoder=loaded.config.autoencoder)
    if expected.in_channels == 3:  # pixels, where the fixture does not say
        told = replace(told, latent_scale=1.0, latent_downsample=1)
    if not expected.has_null_class:  # nothing tells: the last label is taken for the null class
        told = replace(told, num_classes=expected.num_classes - 1, has_null_class=True)
    assert loaded.config == told


@pytest.mark.parametrize("variant", ["plain", "amm"])
def test_a_guided_ancestral_run_through_the_engine_equals_the_reference(variant):
    io, settings = load_file(DATA / "sampling" / "io.safetensors"), settings_of("sampling")
    plan = SamplingPlan(
        sampler=SamplerConfig(sampler="ddpm", steps=settings["steps"]),
        schedule=FULL,
        labels=Labels(classes=tuple(io["y"].tolist())),
        guidance=Guidance(scale=settings["cfg_scale"]),
        batch_size=2,
    )
    model = network("edt_s", amm_of("sampling", variant))

    def noise(index_B, draw_B):
        # Draw 0 is the initial state. The reference draws for both halves of guidance, and keeps the first.
        return torch.stack(
            [
                io["z"][index] if draw == 0 else io["noise"][draw - 1, index]
                for index, draw in zip(index_B.tolist(), draw_B.tolist(), strict=True)
            ]
        )

    images = sorted(generate(ladder_networks(model, (0,)), plan, range(2), noise=noise), key=lambda image: image.index)
    assert [image.label for image in images] == io["y"].tolist()
    made = torch.stack([image.latent_CYX for image in images])
    assert relative_error(made, io[f"sample_{variant}"]) < 1e-4

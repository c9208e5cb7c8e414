import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import medcli
from medcli.config import ModelConfig
from medcli.data.autoencoder import NotFiniteImageError, _decode_batch, open_decoder, open_encoder
from medcli.errors import ConfigError, EnvironmentProblem
from medcli.runtime.torchvision_guard import import_torchvision

LATENTS = ModelConfig(family="sit", hidden_size=16, depth=1, num_heads=2, latent_size=4, num_classes=3)
PIXELS = replace(LATENTS, autoencoder=None, in_channels=1, latent_downsample=1, latent_scale=1.0)


def save_tiny_autoencoder(path: Path, seed: int = 0) -> None:
    """A tiny random AutoencoderKL of the usual stride, as diffusers saves it."""
    import_torchvision()
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
        latent_channels=4,
    )
    model.save_pretrained(path)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vae")
    save_tiny_autoencoder(path)
    return path


def test_pixels_are_rounded_as_the_references_do_and_grey_becomes_rgb() -> None:
    decoder = open_decoder(PIXELS)
    pixels = decoder.decode(torch.tensor([-2.0, -1.0, 0.0, 0.9921, 1.0, 3.0]).view(1, 1, 2, 3))
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (1, 2, 3, 3)
    for channel in range(3):
        assert pixels[0, :, :, channel].flatten().tolist() == [0, 0, 128, 254, 255, 255]


def test_rgb_pixels_keep_their_channels() -> None:
    x = torch.rand(2, 3, 4, 4) * 2 - 1
    pixels = open_decoder(replace(PIXELS, in_channels=3)).decode(x)
    expected = np.clip(127.5 * x.numpy() + 128, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    assert np.array_equal(pixels.numpy(), expected)


@torch.no_grad()
def test_latents_are_unscaled_and_decoded(autoencoder: Path) -> None:
    from diffusers import AutoencoderKL

    config = replace(LATENTS, latent_shift=0.1)
    decoder = open_decoder(config, autoencoder=str(autoencoder))
    latent = torch.randn(1, 4, 4, 4)
    pixels = decoder.decode(latent)
    assert pixels.shape == (1, 32, 32, 3)
    image = AutoencoderKL.from_pretrained(autoencoder).eval().decode(latent / 0.18215 + 0.1).sample
    expected = (127.5 * image + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(pixels, expected)
    assert expected.float().std() > 1


def test_a_pipeline_folder_holds_its_autoencoder(autoencoder: Path, tmp_path: Path) -> None:
    (tmp_path / "vae").symlink_to(autoencoder, target_is_directory=True)
    assert open_decoder(LATENTS, autoencoder=str(tmp_path)).batch_size == 1


@pytest.mark.parametrize("name", ["stabilityai/sd-vae-ft-ema", "no/such-autoencoder", "/no/such/folder"])
def test_a_missing_autoencoder_is_said_without_touching_the_network(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="never downloads") as caught:
        open_decoder(LATENTS, autoencoder=name)
    assert "--vae" in (caught.value.hint or "")


def test_a_name_that_can_be_none_of_the_hub_is_not_offered_for_download() -> None:
    with pytest.raises(EnvironmentProblem, match="no autoencoder tiny-vae: neither a file nor a folder") as caught:
        open_decoder(LATENTS, autoencoder="tiny-vae")
    assert "hf download" not in (caught.value.hint or "")


def test_a_hub_name_is_found_in_the_cache(autoencoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--someone--vae/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(autoencoder, target_is_directory=True)
    (tmp_path / "models--someone--vae/refs").mkdir()
    (tmp_path / "models--someone--vae/refs/main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert open_decoder(LATENTS, autoencoder="someone/vae").batch_size == 1


def test_a_folder_without_a_usable_autoencoder_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EnvironmentProblem, match="no usable"):
        open_decoder(LATENTS, autoencoder=str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(EnvironmentProblem, match="no usable"):
        open_decoder(LATENTS, autoencoder=str(tmp_path))
    assert capfd.readouterr().err == ""


def test_an_autoencoder_of_other_latents_is_refused(autoencoder: Path) -> None:
    with pytest.raises(ConfigError, match="4 channels at stride 8"):
        open_decoder(replace(LATENTS, in_channels=8), autoencoder=str(autoencoder))


def test_models_of_pixels_take_no_autoencoder(autoencoder: Path) -> None:
    with pytest.raises(ConfigError, match="pixels"):
        open_decoder(PIXELS, autoencoder=str(autoencoder))
    with pytest.raises(ConfigError, match="expected 1 or 3"):
        open_decoder(replace(PIXELS, in_channels=2))


def test_reading_an_autoencoder_says_nothing(autoencoder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its library remarks on every cast; `--quiet` and error lines leave no room for that."""
    open_decoder(LATENTS, autoencoder=str(autoencoder), dtype=torch.bfloat16)
    assert capfd.readouterr() == ("", "")


@torch.no_grad()
def test_encoding_gives_the_posteriors_means_and_log_variances(autoencoder: Path) -> None:
    from diffusers import AutoencoderKL

    encoder = open_encoder(str(autoencoder), config=LATENTS, batch_size=2)
    images_BCYX = torch.rand(5, 3, 32, 32) * 2 - 1
    moments_BCYX = encoder.moments(images_BCYX)
    posterior = AutoencoderKL.from_pretrained(autoencoder).eval().encode(images_BCYX).latent_dist
    assert (moments_BCYX.shape, moments_BCYX.dtype, moments_BCYX.is_contiguous()) == ((5, 8, 4, 4), torch.float32, True)
    assert torch.allclose(moments_BCYX, torch.cat([posterior.mean, posterior.logvar], dim=1), atol=1e-5)
    assert (encoder.channels, encoder.image_channels, encoder.stride) == (4, 3, 8)
    assert (encoder.scale, encoder.shift) == (0.18215, 0.0)


def test_an_images_moments_do_not_depend_on_its_batch(autoencoder: Path) -> None:
    encoder = open_encoder(str(autoencoder), batch_size=3)
    images_BCYX = torch.rand(7, 3, 32, 32) * 2 - 1
    together = encoder.moments(images_BCYX)
    for row in range(7):
        assert torch.equal(encoder.moments(images_BCYX[row : row + 1])[0], together[row])


def test_log_variances_are_clamped_as_diffusers_does(autoencoder: Path) -> None:
    encoder = open_encoder(str(autoencoder))
    with torch.no_grad():
        encoder.autoencoder.quant_conv.bias[4:] = 100.0
    assert (encoder.moments(torch.zeros(1, 3, 32, 32))[:, 4:] == 20).all()


def test_the_hash_of_an_autoencoder_is_that_of_its_weights(autoencoder: Path, tmp_path: Path) -> None:
    first = open_encoder(str(autoencoder))
    (tmp_path / "vae").symlink_to(autoencoder, target_is_directory=True)
    assert open_encoder(str(tmp_path)).sha256 == first.sha256
    with torch.no_grad():
        first.autoencoder.quant_conv.bias[0] += 1e-3
    first.autoencoder.save_pretrained(tmp_path / "other")
    assert open_encoder(str(tmp_path / "other")).sha256 != first.sha256


def test_an_encoder_of_other_latents_is_refused_only_where_a_model_is_named(autoencoder: Path) -> None:
    with pytest.raises(ConfigError, match="4 channels at stride 8"):
        open_encoder(str(autoencoder), config=replace(LATENTS, in_channels=8))
    assert open_encoder(str(autoencoder)).batch_size == 1


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_stays_within_one_grey_level_of_plain_float32(autoencoder: Path, dtype: torch.dtype) -> None:
    """Decoding runs channels last; bfloat16, which rounds to 1/256 of a value, is held to one level on average."""
    from diffusers import AutoencoderKL

    plain = AutoencoderKL.from_pretrained(autoencoder).eval()
    decoder = open_decoder(LATENTS, autoencoder=str(autoencoder), dtype=dtype)
    assert decoder.autoencoder.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[attr-defined]
    latent = torch.randn(1, 4, 4, 4)
    expected = (127.5 * plain.decode(latent / 0.18215).sample + 128).clamp(0, 255).permute(0, 2, 3, 1)
    difference = (decoder.decode(latent).float() - expected.floor()).abs()
    assert (difference.mean() if dtype == torch.bfloat16 else difference.max()) <= 1


def test_a_decoder_is_identified_by_what_decides_its_images(autoencoder: Path, tmp_path: Path) -> None:
    decoder = open_decoder(LATENTS, autoencoder=str(autoencoder))
    shutil.copytree(autoencoder, tmp_path / "copy")
    assert open_decoder(LATENTS, autoencoder=str(tmp_path / "copy")).content_id == decoder.content_id
    with pytest.raises(ConfigError, match=r"latents of scale 0\.18215, the model was trained on scale 0\.2"):
        open_decoder(replace(LATENTS, latent_scale=0.2), autoencoder=str(autoencoder))
    assert open_decoder(PIXELS).content_id is None
    before, weights = decoder.content_id, decoder.autoencoder.state_dict()
    with torch.no_grad():
        for name, part in weights.items():
            last = (-1,) * part.ndim
            value = part[last].clone()
            part[last] = value + 1
            assert (decoder.content_id == before) == name.startswith(("encoder.", "quant_conv.")), name
            part[last] = value


@torch.no_grad()
def test_pixels_that_are_no_numbers_are_named_by_their_row(autoencoder: Path) -> None:
    decoder = replace(open_decoder(LATENTS, autoencoder=str(autoencoder)), batch_size=3)
    latent_BCYX = torch.randn(3, 4, 4, 4)
    latent_BCYX[1, 0, 0, 0] = torch.nan
    with pytest.raises(NotFiniteImageError) as caught:
        decoder.decode(latent_BCYX)
    assert caught.value.rows == (1,)


def save_ldm(path: Path, **changes: Any) -> Any:
    """An autoencoder with attention at its deepest level under the names of latent diffusion, other keys beside it."""
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 32, 64),
        layers_per_block=2,
        latent_channels=8,
    ).eval()
    names = {f"encoder.down_blocks.{i}.": f"encoder.down.{i}." for i in range(3)}
    names |= {f"decoder.up_blocks.{i}.": f"decoder.up.{2 - i}." for i in range(3)}
    parts = {
        "resnets.": "block.", "attentions.": "attn.", "downsamplers.0": "downsample", "upsamplers.0": "upsample",
        "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out", "group_norm": "norm", "to_q": "q", "to_k": "k",
        "to_v": "v", "to_out.0": "proj_out",
    }  # fmt: skip
    state = {}
    for name, tensor in model.state_dict().items():
        new = next((name.replace(old, short) for old, short in names.items() if name.startswith(old)), name)
        new = new.replace("mid_block.attentions.0", "mid.attn_1")
        for place in (0, 1):
            new = new.replace(f"mid_block.resnets.{place}", f"mid.block_{place + 1}")
        for old, short in parts.items():
            new = new.replace(old, short)
        is_square = ".attn" in new and tensor.ndim == 2
        state[new] = tensor[..., None, None] if is_square else tensor
    state |= {"loss.logvar": torch.zeros(()), "foundation_model.model.cls_token": torch.ones(3), **changes}
    torch.save({"state_dict": {name: value for name, value in state.items() if value is not None}}, path)
    return model


@torch.no_grad()
def test_a_file_of_latent_diffusion_is_the_same_network(tmp_path: Path) -> None:
    model = save_ldm(tmp_path / "vae.ckpt")
    vae = medcli.load_autoencoder(tmp_path / "vae.ckpt")
    assert (vae.space.channels, vae.space.stride, vae.space.scale, vae.space.shift) == (8, 4, 1.0, None)
    images, latents = torch.randn(1, 3, 16, 16), torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(vae.encode(images), model.encode(images).latent_dist.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(vae.decode(latents), model.decode(latents).sample, rtol=1e-5, atol=1e-5)
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(tmp_path / "vae.ckpt", folder)
    assert torch.equal(medcli.load_autoencoder(folder).decode(latents), vae.decode(latents))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder.mid.attn_1.k.bias": None}, "1 missing"),
        ({"encoder.down.2.attn.1.k.bias": None}, "1 missing"),
        ({"decoder.up.1.attn.0.k.bias": torch.zeros(32)}, "1 unexpected"),
        ({"decoder.other.weight": torch.zeros(32)}, "1 unexpected"),
        ({"decoder.conv_out.bias": torch.zeros(4)}, "1 of another shape"),
        ({"decoder.conv_out.bias": torch.full((3,), float("nan"))}, "NaN"),
        ({"decoder.conv_in.weight": None}, "no decoder.conv_in.weight"),
    ],
)
def test_no_tensor_of_a_file_is_left_out_in_silence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_ldm(tmp_path / "vae.pt", **changes)
    with pytest.raises(EnvironmentProblem, match=message):
        medcli.load_autoencoder(tmp_path / "vae.pt")


def test_pickled_weights_of_a_folder_are_read_without_running_them(autoencoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    shutil.copy(autoencoder / "config.json", tmp_path)
    state = load_file(autoencoder / "diffusion_pytorch_model.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state.items():
        new = name
        for now, before in old.items():
            new = new.replace(f"attentions.0.{now}", f"attentions.0.{before}")
        renamed[new] = tensor
    assert set(renamed) != set(state)
    torch.save(renamed, tmp_path / "diffusion_pytorch_model.bin")
    latents = torch.randn(1, 4, 4, 4)
    expected = medcli.load_autoencoder(autoencoder).decode(latents)
    assert torch.equal(medcli.load_autoencoder(tmp_path).decode(latents), expected)


def test_another_kind_of_autoencoder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    with pytest.raises(EnvironmentProblem, match="AutoencoderTiny, expected an AutoencoderKL"):
        medcli.load_autoencoder(tmp_path)


@pytest.mark.parametrize(("side_px", "expected"), [(128, 8), (256, 8), (512, 2), (1024, 1), (2048, 1)])
def test_a_gpu_decodes_as_many_latents_as_its_memory_holds_pixels(side_px, expected):
    config = replace(LATENTS, latent_size=side_px // LATENTS.latent_downsample)
    assert config.resolution_px == side_px
    assert _decode_batch(config, torch.device("cuda")) == expected
    assert _decode_batch(config, torch.device("cpu")) == 1

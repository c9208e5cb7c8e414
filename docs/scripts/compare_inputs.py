"""Make the input files of `compare_outputs.py`: small checkpoints, images and an autoencoder, the same in every run.

Only torch, numpy, Pillow and diffusers are used, beside the old checkout's fixtures and torchvision guard, so that
a fault of the code under comparison cannot change its own inputs.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

WIDTH, DEPTH, CLASSES = 16, 2, 10


def position_table(side: int) -> Any:
    """(1, side^2, WIDTH) sine-cosine table of the DiT paper's code."""
    import numpy as np
    import torch

    frequencies = 1.0 / 10000 ** (np.arange(WIDTH // 4) / (WIDTH / 4))
    column, row = np.meshgrid(np.arange(side), np.arange(side))
    angles = [axis.reshape(-1, 1) * frequencies for axis in (column, row)]
    table = np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1)
    return torch.from_numpy(table).float().unsqueeze(0)


def official_state(channels: int, out_channels: int, side: int, seed: int) -> dict[str, Any]:
    """State dict of a DiT or SiT with patch size 2 in upstream's names, every weight random."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Any:
        return 0.15 * torch.randn(shape, generator=generator)

    def linear(name: str, width_in: int, width_out: int) -> dict[str, Any]:
        return {f"{name}.weight": draw(width_out, width_in), f"{name}.bias": draw(width_out)}

    state = {"x_embedder.proj.weight": draw(WIDTH, channels, 2, 2), "x_embedder.proj.bias": draw(WIDTH)}
    state |= {"pos_embed": position_table(side // 2), "y_embedder.embedding_table.weight": draw(CLASSES + 1, WIDTH)}
    state |= linear("t_embedder.mlp.0", 256, WIDTH) | linear("t_embedder.mlp.2", WIDTH, WIDTH)
    for index in range(DEPTH):
        block = f"blocks.{index}"
        state |= linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH) | linear(f"{block}.attn.proj", WIDTH, WIDTH)
        state |= linear(f"{block}.mlp.fc1", WIDTH, 4 * WIDTH) | linear(f"{block}.mlp.fc2", 4 * WIDTH, WIDTH)
        state |= linear(f"{block}.adaLN_modulation.1", WIDTH, 6 * WIDTH)
    state |= linear("final_layer.adaLN_modulation.1", WIDTH, 2 * WIDTH)
    return state | linear("final_layer.linear", WIDTH, 4 * out_channels)


def save_pixel_model(path: Path, family: str, *, learn_sigma: bool, **header: Any) -> None:
    """Write a pixel-space model (8 px, grey) in medcli's own format."""
    from safetensors.torch import save_file

    config: dict[str, Any] = {
        "autoencoder": None,
        "depth": DEPTH,
        "family": family,
        "has_null_class": True,
        "hidden_size": WIDTH,
        "in_channels": 1,
        "latent_downsample": 1,
        "latent_scale": 1.0,
        "latent_shift": 0.0,
        "latent_size": 8,
        "learn_sigma": learn_sigma,
        "mediator_layers": [],
        "mediators": [],
        "mlp_ratio": 4.0,
        "num_classes": CLASSES,
        "num_heads": 2,
        "patch_size": 2,
        "qk_ratio": 1.0,
    }
    values = {"config": config, "format_version": 1, "medcli_version": "0.1.0", "reference": "digits", "sampling": {}}
    values |= {"training": {}, "weights": "ema"} | header
    state = official_state(1, 2 if learn_sigma else 1, 8, seed=3)
    save_file(state, path, metadata={"medcli": json.dumps(values, sort_keys=True, separators=(",", ":"))})


def save_checkpoints(folder: Path, old: Path) -> None:
    """Write official, training, EDT, MDTv2, pixel checkpoints and the old checkout's bundled model of digits."""
    import torch
    from safetensors.torch import load_file

    golden = old / "tests" / "golden" / "data"
    bundled = next((old / "medcli" / "assets").rglob("digits-sit.safetensors"))
    shutil.copyfile(bundled, folder / "digits-sit.safetensors")
    dit, sit, ema = official_state(4, 8, 8, 0), official_state(4, 8, 8, 1), official_state(4, 8, 8, 2)
    torch.save(dit, folder / "dit.pt")
    torch.save({"model": sit, "ema": ema, "opt": {"state": {}, "param_groups": []}}, folder / "sit.pt")
    torch.save(
        {"model": {f"module._orig_mod.{name}": value for name, value in sit.items()}}, folder / "sit_prefixed.pt"
    )
    for name, fixture in {"edt": "edt_s", "mdtv2": "mdtv2"}.items():
        weights = load_file(golden / "golden-edt" / fixture / "weights.safetensors")
        torch.save({"ema": weights, "model": weights}, folder / f"{name}.pt")
    for name in ("mediator_epoch_004.pt", "sit_train.pt", "diffusers_dit", "diffusers_dit_legacy"):
        source, target = golden / "checkpoints" / name, folder / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    quick = {"steps": 6, "cfg_scale": 1.5, "last_step_size": 0.04}
    save_pixel_model(folder / "pixel-sit.safetensors", "sit", learn_sigma=False, sampling={"sampler": "sde", **quick})
    save_pixel_model(folder / "pixel-dit.safetensors", "dit", learn_sigma=True, sampling={"steps": 6})
    (folder / "cut.safetensors").write_bytes((folder / "pixel-sit.safetensors").read_bytes()[:-1])
    (folder / "cut.pt").write_bytes((folder / "sit.pt").read_bytes()[:-1000])
    (folder / "empty.pt").write_bytes(b"")
    torch.save({"weights": [1, 2, 3]}, folder / "not_a_model.pt")


def save_images(folder: Path) -> None:
    """Write class folders of photos, grey digits-like images, and sample files."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(5):
            pixels = draw.integers(0, 256, (40 + 2 * label, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{index}.png")
    for name, number in (("grey-a", 40), ("grey-b", 36)):
        (folder / name).mkdir()
        pixels = draw.integers(0, 256, (number, 8, 8), dtype=np.uint8)
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(folder / name / f"{index:06d}.png")
        np.savez(folder / f"{name}.npz", pixels[..., None].repeat(3, axis=3))
    (folder / "grey-b" / "000003.png").write_bytes(b"no picture")
    np.savez(folder / "bad_reference.npz", mu=np.zeros(4), sigma=np.eye(3))


def save_autoencoder(folder: Path) -> None:
    """Write a tiny random AutoencoderKL of the usual stride, as diffusers saves it."""
    import torch

    from medcli.runtime.torchvision_guard import import_torchvision

    import_torchvision()
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = 4
    autoencoder: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(4,) * blocks,
        norm_num_groups=2,
        latent_channels=4,
    )
    autoencoder.save_pretrained(folder / "vae")


if __name__ == "__main__":
    place, old = Path(sys.argv[1]), Path(sys.argv[2])
    save_checkpoints(place, old)
    save_images(place)
    save_autoencoder(place)

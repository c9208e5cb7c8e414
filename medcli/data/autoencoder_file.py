"""Read an AutoencoderKL from a folder or a single file, in the layout of diffusers or of latent diffusion (LDM).

An LDM file (Stable Diffusion's, VA-VAE's) is the same network under other names. Its configuration follows from its
tensors, attention at any level included; all of them must be used, none is left out in silence. Torch-free but for
`load_network`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcli.checkpoint.layouts import folder_weights, tensors_in
from medcli.checkpoint.load import load_tensors
from medcli.checkpoint.tensor_record import FLOAT_DTYPES, TensorRecord
from medcli.config import SD_CHANNELS, SD_SCALE
from medcli.errors import EnvironmentProblem, MedcliError, listed

if TYPE_CHECKING:
    import torch

HINT = "pass a folder with a diffusers AutoencoderKL, or a file of one or of VA-VAE: --vae PATH"
PREFIXES = ("", "first_stage_model.", "vae.", "module.", "_orig_mod.", "autoencoder.", "model.")
"""Prefixes that autoencoders have in larger files."""
ROOTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
GROUPS = 32
"""Groups of the norms of LDM's autoencoders."""
LDM_NAMES = (
    (r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets."),
    (r"^encoder\.down\.(\d+)\.attn\.", r"encoder.down_blocks.\1.attentions."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^decoder\.up\.(\d+)\.block\.", r"decoder.up_blocks.\1.resnets."),
    (r"^decoder\.up\.(\d+)\.attn\.", r"decoder.up_blocks.\1.attentions."),
    (r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_([12])\.", lambda found: f".mid_block.resnets.{int(found[1]) - 1}."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
)
"""LDM's names and diffusers', in the order they are replaced; levels of the decoder count from the other end."""
ATTENTION_NAMES = {
    **{"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"},
    **{"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"},
}
"""Parts of an attention in LDM, and in older files of diffusers."""
ATTENTION = re.compile(r"(.*\.attentions\.\d+)\.(\w+)\.(weight|bias)")


def read_tensors(place: Path) -> tuple[dict[str, TensorRecord], tuple[str, ...]]:
    """List an autoencoder's tensors under diffusers' names.

    Args:
        place: A diffusers folder, or a file.

    Returns:
        The tensors, and the names of others in the file.

    Raises:
        EnvironmentProblem: If there is no autoencoder.
    """
    try:
        held = folder_weights(place) if place.is_dir() else tensors_in(place)
    except MedcliError as err:
        raise EnvironmentProblem(err.message, hint=err.hint) from err
    prefix = next((one for one in PREFIXES if f"{one}decoder.conv_in.weight" in held), None)
    if prefix is None:
        raise EnvironmentProblem(
            f"{place} holds no usable autoencoder: it has no decoder.conv_in.weight ({len(held)} other tensors)",
            hint="expected an AutoencoderKL of diffusers or of latent diffusion",
        )
    own = {name: name.removeprefix(prefix) for name in held if name.startswith(tuple(prefix + root for root in ROOTS))}
    levels = _levels(own.values(), r"^decoder\.up\.(\d+)\.")
    tensors = {}
    for name, short in own.items():
        new = _diffusers_name(short, levels)
        record = held[name].renamed(new)
        if ".attentions." in new and record.shape[2:] == (1, 1):  # a convolution of one pixel is a linear layer
            record = TensorRecord(new, record.dtype, record.shape[:2], record.pieces)
        tensors[new] = record
    return tensors, tuple(name for name in held if name not in own)


def _diffusers_name(name: str, levels: int) -> str:
    """Return diffusers' name of a tensor; one it has already is kept."""
    for pattern, replacement in LDM_NAMES:
        name = re.sub(pattern, replacement, name)
    if levels:  # LDM numbers the decoder's levels from the finest
        flipped = re.match(r"decoder\.up_blocks\.(\d+)\.(.*)", name)
        name = f"decoder.up_blocks.{levels - 1 - int(flipped[1])}.{flipped[2]}" if flipped else name
    found = ATTENTION.fullmatch(name)
    return f"{found[1]}.{ATTENTION_NAMES[found[2]]}.{found[3]}" if found and found[2] in ATTENTION_NAMES else name


def _levels(names: Any, pattern: str) -> int:
    """Count levels by their numbers, from 0 without a gap; those beyond a gap are left for the check."""
    numbers = {int(found[1]) for name in names if (found := re.match(pattern, name))}
    return next(count for count in range(len(numbers) + 1) if count not in numbers)


def inferred_config(tensors: Mapping[str, TensorRecord], source: str) -> dict[str, Any]:
    """Work out the configuration of an AutoencoderKL from its tensors.

    Args:
        tensors: Under diffusers' names.
        source: Name of the file in messages.

    Raises:
        EnvironmentProblem: If a tensor that tells is missing or misshapen.
    """

    def size(name: str, axis: int) -> int:
        record = tensors.get(name)
        if record is None or len(record.shape) <= axis:
            raise EnvironmentProblem(
                f"{source} holds no usable autoencoder: {name} is missing or misshapen", hint="copy the file again"
            )
        return record.shape[axis]

    levels = _levels(tensors, r"encoder\.down_blocks\.(\d+)\.")
    widths = [size(f"encoder.down_blocks.{level}.resnets.0.conv2.weight", 0) for level in range(levels)]
    channels = size("decoder.conv_in.weight", 1)

    def has_attention(part: str, level: int) -> bool:
        return f"{part}_blocks.{level}.attentions.0.to_q.weight" in tensors

    return {
        "in_channels": size("encoder.conv_in.weight", 1),
        "out_channels": size("decoder.conv_out.weight", 0),
        "latent_channels": channels,
        "block_out_channels": widths,
        "down_block_types": [
            "AttnDownEncoderBlock2D" if has_attention("encoder.down", level) else "DownEncoderBlock2D"
            for level in range(levels)
        ],
        "up_block_types": [
            "AttnUpDecoderBlock2D" if has_attention("decoder.up", level) else "UpDecoderBlock2D"
            for level in range(levels)
        ],
        "layers_per_block": _levels(tensors, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "norm_num_groups": GROUPS,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in tensors,
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
        # A file of Stable Diffusion's channels has its factor; others, such as VA-VAE, have none.
        "scaling_factor": SD_SCALE if channels == SD_CHANNELS else 1.0,
    }


def load_network(place: Path, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Build a diffusers `AutoencoderKL` around the tensors of a folder or file.

    Args:
        place: The folder or file.
        config: Its configuration, as diffusers has it.
        dtype: Type of the weights.

    Raises:
        EnvironmentProblem: If the tensors do not fit the configuration, or hold NaN or infinite weights.
    """
    import torch

    from medcli.runtime.torchvision_guard import import_torchvision

    with suppress(ImportError):  # diffusers does without torchvision, but not with one that does not load
        import_torchvision()
    from diffusers import AutoencoderKL
    from diffusers.utils import logging

    logging.set_verbosity_error()  # else it prints lines of its own beside our message
    kind: Any = AutoencoderKL  # diffusers has no types
    tensors, _ = read_tensors(place)
    if wrong := next((name for name, record in tensors.items() if record.dtype not in FLOAT_DTYPES), None):
        raise EnvironmentProblem(f"{place}: {wrong} is not of floating point numbers", hint="copy the file again")
    try:
        with torch.device("meta"):
            network = kind.from_config(dict(config))
    except Exception as err:  # a configuration that is none fails inside the library in many ways
        raise EnvironmentProblem(f"{place} holds no usable autoencoder ({str(err)[:100]})", hint=HINT) from err
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    groups = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "of another shape": [n for n, shape in expected.items() if n in tensors and tensors[n].shape != shape],
    }
    if problems := [f"{len(names)} {what} ({listed(names, 2)})" for what, names in groups.items() if names]:
        shown = "; ".join(problems)[:300]
        raise EnvironmentProblem(f"{place} holds no usable autoencoder: of its tensors, {shown}", hint=HINT)
    try:
        loaded = load_tensors(tensors, str(place))
    except MedcliError as err:
        raise EnvironmentProblem(err.message, hint=err.hint) from err
    # Copied: a mapped file that is replaced would change the network.
    network.load_state_dict({name: tensor.to(dtype, copy=True) for name, tensor in loaded.items()}, assign=True)
    return network

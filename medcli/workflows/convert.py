"""Convert a checkpoint: add a mediator ladder, change resolution or classes, or write another layout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medcli.checkpoint.export import write_diffusers, write_official
from medcli.checkpoint.hub import hub_title
from medcli.checkpoint.surgery import Surgery, default_layers
from medcli.checkpoint.tensor_record import TensorRecord, computed, from_bytes
from medcli.checkpoint.writer import write_safetensors
from medcli.config import ModelConfig
from medcli.cost.macs import GIGA, closed_form_macs, saving_percent
from medcli.errors import ConfigError
from medcli.model.absorption import absorbed_saving
from medcli.model.layout import BIAS_TABLES, num_params, position_tables
from medcli.network import Network, note_remarks, open_network
from medcli.presets import preset_of, saves
from medcli.runtime.files import file_sha256, refuse_existing
from medcli.runtime.json_records import json_fields
from medcli.runtime.reporting import Reporter, Silent
from medcli.settings.checkpoints import ConvertRequest, StorageName

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Target = Literal["medcli", "official", "diffusers"]
STORAGE: dict[StorageName, str] = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
"""Codes of number formats in a file."""
FP16_LIMIT = 65520.0
"""Least number that rounds to infinity in fp16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassCost:
    """Cost of a forward pass of one image with one mediator count."""

    num_mediators: int
    gmacs: float
    """In the papers' convention."""
    saving_percent: float
    """Against full attention."""
    executed_saving_percent: float
    """The same of the multiply-adds that sampling executes (`medcli.model.absorption`)."""
    all_layers_saving_percent: float
    """Saving in the papers' convention with mediators in all blocks that they fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertReport:
    """Result of a conversion: the output, and the origin of each tensor."""

    output: Path
    file: Path
    """The weight file: the output itself, or a file in it for diffusers."""
    config: ModelConfig
    weights: str
    """Weight set that was read: `ema` or `model`."""
    copied: tuple[str, ...]
    """Names of tensors copied unchanged."""
    resized: tuple[str, ...]
    """Names of tensors resampled for another resolution or number of classes."""
    new: tuple[str, ...]
    """Names of tensors the source lacks; they start neutral."""
    dropped: tuple[str, ...]
    """Names of source tensors that the target does not have."""
    sha256: str | None
    """Hash of `file`; None until it is requested."""

    @property
    def has_new_mediators(self) -> bool:
        """True if the conversion added mediators, which need training."""
        return any(name.rpartition(".")[2] in BIAS_TABLES for name in self.new)

    @property
    def is_in_all_layers(self) -> bool:
        """True if all blocks that mediators fit have them."""
        return len(self.config.mediator_layers) >= len(default_layers(self.config, self.config.mediators[-1]))

    @property
    def gmacs_dense(self) -> float:
        """GMACs of a forward pass of one image with full attention."""
        return closed_form_macs(self.config, num_mediators=0) / GIGA

    @property
    def costs(self) -> tuple[PassCost, ...]:
        """Cost of a forward pass with each mediator count."""
        return tuple(_pass_cost(self.config, count) for count in self.config.mediators)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "output": str(self.output),
            "family": self.config.family,
            "preset": preset_of(self.config),
            "num_params": num_params(self.config),
            "layers": list(self.config.mediator_layers),
            "mediators": list(self.config.mediators),
            **json_fields(self, "copied", "resized", "new", "dropped", "weights", "gmacs_dense", "costs"),
            "sha256": self.sha256 or file_sha256(self.file),
        }


def convert(request: ConvertRequest, reporter: Reporter | None = None) -> ConvertReport:
    """Convert a checkpoint.

    Args:
        reporter: Receives progress in tensors, and warnings.

    Raises:
        CheckpointError: If the source is missing, damaged, ambiguous or not a model of these families.
        ConfigError: If the changes don't fit the model, or the output exists without `force`.
        EnvironmentProblem: If the output can't be written.
    """
    network = open_network(request.network, add_mediators=request.to == "medcli", vae=request.vae)
    if request.vae is not None and network.opened.info.knows_latents:
        raise ConfigError(
            f"--vae does nothing: {network.name} says how its latents are made",
            hint="leave --vae out, or give it to sample",
        )
    return write_network(network, request, reporter or Silent())


def write_network(network: Network, request: ConvertRequest, reporter: Reporter) -> ConvertReport:
    """Write a network that is already open; see `convert`."""
    info = network.opened.info
    surgery = stored_as(network.surgery(), request.dtype)
    note_remarks([network], reporter)
    output = request.output or Path(default_name(info.path, network.config, request.to))
    # A file of ours keeps what it was in its header; one of another project would be lost.
    refuse_existing(output, force=request.force, inputs=[] if info.layout == "medcli" else [info.path])
    file, sha256 = _write(request, output, network, surgery, reporter)
    _warn_of_large_counts(network.config, reporter)
    if request.to == "diffusers":
        reporter.note(
            "diffusers embeds time with frequencies k/127 instead of k/128, so its outputs differ by about 2.7 %; open "
            "the folder with DiTPipeline.from_pretrained(FOLDER, vae=AutoencoderKL.from_pretrained(...))"
        )
    return ConvertReport(
        output=output,
        file=file,
        config=network.config,
        weights=info.weights,
        copied=tuple(name for name in surgery.copied if name not in info.rewritten),
        resized=surgery.resized,
        new=surgery.new,
        dropped=(*info.left_out, *surgery.dropped),
        sha256=sha256,
    )


def stored_as(surgery: Surgery, dtype: StorageName | None) -> Surgery:
    """Return the tensors rounded to a number format; None: as they are. Fixed position tables keep theirs."""
    if dtype is None:
        return surgery
    code, fixed = STORAGE[dtype], position_tables(surgery.config)

    def rounded(name: str, record: TensorRecord) -> TensorRecord:
        if name in fixed or record.dtype == code:
            return record
        return computed(name, code, record.shape, lambda: _fitting(record, code))

    records = {name: rounded(name, record) for name, record in surgery.records.items()}
    return replace(surgery, records=records)


def _fitting(record: TensorRecord, code: str) -> NDArray[np.floating]:
    """Return a tensor's numbers.

    Raises:
        ConfigError: If the number format holds no numbers as large as some of them.
    """
    values = from_bytes(record.read(), record.dtype, record.shape)
    largest = max(abs(float(values.max(initial=0))), abs(float(values.min(initial=0))))
    if code == "F16" and FP16_LIMIT <= largest < math.inf:
        raise ConfigError(
            f"{record.name} has numbers up to {largest:.4g}, which fp16 can't hold", hint="use --dtype bf16 or fp32"
        )
    return values


def default_name(source: Path, target: ModelConfig, to: Target) -> str:
    """Return the default name of the output, in the current folder."""
    path = Path(realpath(source)) if source.is_dir() else source  # a file of the hub's cache is a link to a hash
    stem = hub_title(path) if path.is_dir() else path.stem
    if to == "diffusers":
        return f"{stem}-diffusers"
    if to == "official":
        return f"{stem}-official.pt"
    return f"{stem}-{'mediators' if target.mediators else 'medcli'}.safetensors"


def _write(
    request: ConvertRequest, output: Path, network: Network, surgery: Surgery, reporter: Reporter
) -> tuple[Path, str | None]:
    """Write the requested layout; returns the weight file, and its hash if it is known already."""
    source = network.name
    if request.to == "medcli":
        sha256 = write_safetensors(
            output,
            surgery.records.values(),
            network.header().to_metadata(),
            source=source,
            force=request.force,
            digest=request.digest,
            reporter=reporter,
        )
        return output, sha256
    write: Callable[..., Path] = write_official
    if request.to == "diffusers":
        write = partial(write_diffusers, class_names=network.header().class_names)
    file = write(output, surgery.records, surgery.config, source=source, force=request.force, reporter=reporter)
    return file, file_sha256(file) if request.digest else None


def _pass_cost(config: ModelConfig, count: int) -> PassCost:
    dense = closed_form_macs(config, num_mediators=0)
    macs = closed_form_macs(config, num_mediators=count)
    everywhere = replace(config, mediator_layers=default_layers(config, config.mediators[-1]))
    return PassCost(
        num_mediators=count,
        gmacs=macs / GIGA,
        saving_percent=saving_percent(macs, dense),
        executed_saving_percent=saving_percent(macs - absorbed_saving(config, num_mediators=count), dense),
        all_layers_saving_percent=saving_percent(closed_form_macs(everywhere, num_mediators=count), dense),
    )


def _warn_of_large_counts(config: ModelConfig, reporter: Reporter) -> None:
    wasteful = [str(count) for count in config.mediators if not saves(count, config.num_tokens)]
    if wasteful:
        reporter.note(
            f"{', '.join(wasteful)} mediators cost as much as full attention at {config.num_tokens} tokens, or more"
        )

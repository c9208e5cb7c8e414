"""Turn a checkpoint into one with a mediator ladder, of another resolution, or in another layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from medcli.checkpoint.export import write_diffusers, write_official
from medcli.checkpoint.header import Header
from medcli.checkpoint.infer import Hints
from medcli.checkpoint.reader import Checkpoint, CheckpointInfo, open_checkpoint
from medcli.checkpoint.surgery import Surgery, operate, target_config
from medcli.checkpoint.writer import write_safetensors
from medcli.config import ModelConfig
from medcli.model.layout import num_params
from medcli.presets import preset_of
from medcli.runtime.files import file_sha256
from medcli.runtime.reporting import Reporter, Silent
from medcli.sampler_config import SamplerConfig

Target = Literal["medcli", "official", "diffusers"]
LayerChoice = Callable[[int], tuple[int, ...]]
"""Which blocks, given how many there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertRequest:
    """What to convert, and into what."""

    source: Path
    """A checkpoint file or a diffusers folder."""
    output: Path | None = None
    """Where to; None: the source's name with `-mediators`, `-medcli`, `-official` or `-diffusers`, in this folder."""
    mediators: tuple[int, ...] | None = None
    """The ladder; None: the source's, else 4, 16, 64; empty: none."""
    layers: LayerChoice | None = None
    """Blocks with mediators; None: the source's, else the first four; a choice of none leaves them as they are."""
    weights: str = "ema"
    """`ema` or `model`, for training checkpoints that hold both."""
    resolution_px: int | None = None
    """Side of the square image; None keeps the source's."""
    num_classes: int | None = None
    """Classes, the null class not counted; None keeps the source's."""
    family: str | None = None
    """`dit` or `sit`, where neither the file's contents nor its name tells."""
    num_heads: int | None = None
    """Attention heads, where the width is not a preset's."""
    to: Target = "medcli"
    """The layout to write."""
    force: bool = False
    """Whether an existing output may be replaced."""
    digest: bool = True
    """Whether the output is hashed while it is written; without, the report hashes it when asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertReport:
    """What was written, and where each tensor came from."""

    output: Path
    file: Path
    """The weight file: the output itself, but for diffusers, whose output is a folder."""
    config: ModelConfig
    weights: str
    """The set that was read: `ema` or `model`."""
    copied: tuple[str, ...]
    """Tensors taken as they are."""
    resized: tuple[str, ...]
    """Tensors made from the source's for another resolution or number of classes."""
    new: tuple[str, ...]
    """Tensors the source lacks; they start neutral."""
    dropped: tuple[str, ...]
    """Tensors only the source has."""
    sha256: str | None
    """Hash of `file`; None until it is asked for."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "output": str(self.output),
            "family": self.config.family,
            "preset": preset_of(self.config),
            "num_params": num_params(self.config),
            "layers": list(self.config.mediator_layers),
            "mediators": list(self.config.mediators),
            "copied": list(self.copied),
            "resized": list(self.resized),
            "new": list(self.new),
            "dropped": list(self.dropped),
            "weights": self.weights,
            "sha256": self.sha256 or file_sha256(self.file),
        }


def convert(request: ConvertRequest, reporter: Reporter | None = None) -> ConvertReport:
    """Convert a checkpoint.

    Args:
        request: What to do.
        reporter: Told the tensors finished, and what is worth a remark.

    Raises:
        CheckpointError: If the source is missing, damaged, ambiguous or not a model of these families.
        ConfigError: If the wishes don't fit the model, or the output exists without `force`.
        EnvironmentProblem: If the output can't be written.
    """
    told = reporter or Silent()
    opened = _open(request)
    surgery = _operate(request, opened)
    output = request.output or Path(default_name(request.source, surgery.config, request.to))
    file, sha256 = _write(request, output, opened, surgery, told)
    _remark(surgery.config, told)
    return ConvertReport(
        output=output,
        file=file,
        config=surgery.config,
        weights=opened.info.weights,
        copied=surgery.copied,
        resized=surgery.resized,
        new=surgery.new,
        dropped=surgery.dropped,
        sha256=sha256,
    )


def _open(request: ConvertRequest) -> Checkpoint:
    hints = Hints(
        family=request.family,
        num_heads=request.num_heads,
        num_classes=request.num_classes,
        resolution_px=request.resolution_px,
    )
    return open_checkpoint(request.source, hints=hints, weights=request.weights)


def _operate(request: ConvertRequest, opened: Checkpoint) -> Surgery:
    config = opened.info.config
    target = target_config(
        config,
        mediators=request.mediators,
        layers=None if request.layers is None else request.layers(config.depth),
        resolution_px=request.resolution_px,
        num_classes=request.num_classes,
        add_mediators=request.to == "medcli",
    )
    return operate(opened.records, config, target, made=opened.made)


def default_name(source: Path, target: ModelConfig, to: Target) -> str:
    """Name of the output when none is given; it is made in the current folder."""
    path = source.resolve()
    stem = path.name if path.is_dir() else path.stem
    if to == "diffusers":
        return f"{stem}-diffusers"
    if to == "official":
        return f"{stem}-official.pt"
    return f"{stem}-{'mediators' if target.mediators else 'medcli'}.safetensors"


def _write(
    request: ConvertRequest, output: Path, opened: Checkpoint, surgery: Surgery, reporter: Reporter
) -> tuple[Path, str | None]:
    """Write the layout asked for; returns the weight file and its hash if it is known already."""
    source = request.source.name
    if request.to == "medcli":
        sha256 = write_safetensors(
            output,
            surgery.records.values(),
            _header(opened.info, surgery.config).to_metadata(),
            source=source,
            force=request.force,
            digest=request.digest,
            reporter=reporter,
        )
        return output, sha256
    write = {"official": write_official, "diffusers": write_diffusers}[request.to]
    file = write(output, surgery.records, surgery.config, source=source, force=request.force, reporter=reporter)
    return file, file_sha256(file) if request.digest else None


def _header(info: CheckpointInfo, target: ModelConfig) -> Header:
    """What our file says; defaults of the source that no longer fit the model are left out."""
    sampling: Mapping[str, Any] = info.sampling
    if target.mediators != info.config.mediators:
        # A schedule's thresholds belong to the ladder they were chosen for.
        of_sampler = {field.name for field in fields(SamplerConfig)}
        sampling = {key: value for key, value in sampling.items() if key in of_sampler}
    dense = replace(target, mediators=(), mediator_layers=())
    is_same_task = dense == replace(info.config, mediators=(), mediator_layers=())
    return Header(target, info.weights, sampling, info.reference if is_same_task else None, info.training)


def _remark(target: ModelConfig, reporter: Reporter) -> None:
    # Costs 4 n N D MACs instead of 2 N^2 D (reference-facts 8).
    wasteful = [str(count) for count in target.mediators if 2 * count >= target.num_tokens]
    if wasteful:
        reporter.note(
            f"{', '.join(wasteful)} mediators cost as much as full attention at {target.num_tokens} tokens, or more"
        )

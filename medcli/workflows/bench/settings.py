"""What every measurement is told: the network, the numbers it computes with, and where."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medcli.errors import ConfigError
from medcli.runtime.compilation import require_compiler
from medcli.runtime.device import pick_device
from medcli.runtime.precision import DTYPES, warn_if_slow
from medcli.runtime.reporting import Reporter
from medcli.workflows.bench.subject import Shape, Subject, find_subject


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSettings:
    """What to measure, and how."""

    model: str | None = None
    """A checkpoint or a preset; None: SiT-S/2 with random weights."""
    family: str | None = None
    """`dit` or `sit`, where neither the file's contents nor its name tells."""
    num_heads: int | None = None
    """Attention heads, where the width is not a preset's."""
    shape: Shape = Shape()
    """Resolution, ladder and blocks, where they are not the model's own."""
    batch_size: int | None = None
    """Images of a network call or a training step; None: 4 on a CPU, more elsewhere."""
    dtype: str = "fp32"
    """`fp32` or `bf16`, of our own code; the papers' is float32."""
    compiled: bool = False
    """Whether our networks are compiled; the papers' are not."""
    repeats: int
    """Rounds in which everything is timed once."""
    device: str | None = None
    num_threads: int | None = None
    """Threads of an operation on the CPU; None: as many as torch likes."""

    def prepare(self, reporter: Reporter) -> tuple[Subject, torch.device]:
        """Find the network and the device; nothing big is read yet.

        Raises:
            ConfigError: If the preset is unknown, or values contradict each other or the model.
            CheckpointError: If the checkpoint is missing, damaged or not of these families.
            EnvironmentProblem: If the device is not there, or nothing to compile with.
        """
        if self.repeats < 1:
            raise ConfigError(f"--repeats must be at least 1, got {self.repeats}")
        device = pick_device(self.device)
        warn_if_slow(DTYPES[self.dtype], device, reporter)
        if self.compiled:
            require_compiler(device)
        return find_subject(self.model, self.shape, family=self.family, num_heads=self.num_heads), device


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """What was measured, and where: part of every report."""

    model: str
    resolution_px: int
    num_tokens: int
    layers: tuple[int, ...]
    """Blocks with mediators."""
    depth: int
    """Blocks."""
    batch_size: int
    repeats: int
    clock: str
    """`thread_cpu`: CPU time of the one thread; `wall`; `wall_synchronised`: wall between device synchronisations."""
    device: str
    machine: str
    threads: int
    dtype: str
    compiled: bool

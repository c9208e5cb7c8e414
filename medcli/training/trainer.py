"""Trainer: a network, its optimizer and its moving average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from medcli.diffusion.gaussian import NUM_TRAIN_TIMESTEPS
from medcli.errors import CheckpointError
from medcli.model.backbone import DiffusionTransformer
from medcli.training.batches import TrainBatch, to_device
from medcli.training.config import TrainConfig
from medcli.training.distributed import Distributed, whole, write
from medcli.training.ema import Ema
from medcli.training.objective import LadderObjective
from medcli.training.optimizers import COUNTER, MOMENTS, build_optimizer
from medcli.training.timestep_sampler import LossSecondMomentResampler

MODEL, EMA, TIMESTEPS = "model", "ema", "timesteps"
"""Prefixes of a checkpoint's tensor names; the optimizer's moments have the optimizer's own names as prefixes."""


class StepResult(NamedTuple):
    """Losses and gradient norm of a step, still on the device."""

    losses: Tensor
    """(P,) mean losses of this process's rows: of the step's pass, and of its masked pass if there is one."""
    grad_norm: Tensor
    """Gradient norm over all processes before clipping, a scalar."""

    @property
    def loss(self) -> Tensor:
        """Loss that the step minimised, a scalar."""
        return self.losses.sum()


class PassLosses(NamedTuple):
    """Losses of this process's rows in each pass of a step."""

    means: Tensor
    """(P,) weighted means, which are minimised."""
    rows: Tensor
    """(P, B) losses without weights."""


class Trainer:
    """Train a network in place.

    Args:
        model: Network with float32 weights; parameters that need no gradient stay as they are.
        teacher: Teacher of the distillation, or None.
        distributed: Processes of the run.
    """

    def __init__(
        self,
        model: DiffusionTransformer,
        teacher: DiffusionTransformer | None,
        config: TrainConfig,
        distributed: Distributed,
    ) -> None:
        self.model, self.config, self.distributed = model, config, distributed
        objective = LadderObjective(model, config.loss, teacher)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(parameters, config.lr, distributed.device, config.optimizer)
        self._objective = distributed.prepare(objective, self.optimizer)
        # Sharding replaces parameters.
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.ema = Ema(model, config.ema)
        self.timestep_sampler = LossSecondMomentResampler(NUM_TRAIN_TIMESTEPS) if config.timesteps == "loss" else None
        self.scaler = torch.amp.GradScaler(distributed.device.type, enabled=config.dtype == "fp16")

    def with_timesteps(self, batch: TrainBatch, uniform_B: Tensor) -> TrainBatch:
        """Return a batch at the timesteps of its step, which may depend on earlier losses.

        Args:
            batch: Batch at evenly drawn times.
            uniform_B: Uniform numbers that its times are drawn from, `Batches.time_uniforms`.
        """
        if self.timestep_sampler is None:
            return batch
        t_B, weight_B = self.timestep_sampler.sample(uniform_B)
        parts = t_B.to(batch.t_B.dtype), weight_B.to(batch.data_BCYX.dtype)
        return batch.with_timesteps(*(to_device(part, batch.t_B.device) for part in parts))

    def _observe(self, t_B: Tensor, rows_PB: Tensor) -> None:
        """Record the losses of all processes' rows, in the same order in each of them."""
        if self.timestep_sampler is not None:
            # Waits for the device, once: the next step's times depend on it.
            times, losses = torch.stack([t_B.float(), rows_PB.sum(0).float()]).tolist()
            seen = self.distributed.gather(list(zip(map(int, times), losses, strict=True)))
            self.timestep_sampler.update(*(torch.tensor(part) for part in zip(*seen, strict=True)))

    def train_step(self, batch: TrainBatch, step: int | None = None) -> StepResult:
        """Do one optimizer step on this process's rows of a batch.

        Args:
            step: Number of the step, from 1, which decides learning rate and averaging; None: the run's own values.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr if step is None else self.config.lr_at(step - 1)
        losses = self.gradients(batch)
        self._observe(batch.t_B, losses.rows)
        return StepResult(losses.means, whole(self.update(step)))

    def update(self, step: int | None = None) -> Tensor:
        """Clip the gradients, step the optimizer and move the average; return the gradients' norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.zero_gradients()
        self.ema.update(step)
        return grad_norm

    def gradients(self, batch: TrainBatch) -> PassLosses:
        """Compute the gradients of a batch in micro-batches, averaged over processes and times fp16's loss scale."""
        passes = [batch] if batch.masked is None else [batch, batch.masked]
        pieces = [list(each.micro_batches(self.config.micro_batch_size)) for each in passes]
        last = pieces[-1][-1]
        means: list[Tensor] = []
        rows: list[Tensor] = []
        for part in pieces:
            shares: list[Tensor] = []
            parts: list[Tensor] = []
            for piece in part:
                with nullcontext() if piece is last else self.distributed.unsynchronised(self._objective):
                    loss_B: Tensor = self._objective(*piece[:6])
                    weighted_B = loss_B if piece.weight_B is None else loss_B * piece.weight_B
                    loss = weighted_B.mean() * (len(piece) / len(batch))
                    self.scaler.scale(loss).backward()
                shares.append(loss.detach())
                parts.append(loss_B.detach())
            means.append(torch.stack(shares).sum())
            rows.append(torch.cat(parts))
        return PassLosses(torch.stack(means), torch.stack(rows))

    def zero_gradients(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint by name; no copies."""
        found = {f"{MODEL}.{name}": value.detach() for name, value in self.model.named_parameters()}
        found.update({f"{EMA}.{name}": value for name, value in self.ema.shadow.items()})
        for name, parameter in self.parameters.items():
            kept = self.optimizer.state.get(parameter, {})
            found.update({f"{kind}.{name}": value for kind, value in kept.items()})
        if self.timestep_sampler is not None:
            found.update(
                {
                    f"{TIMESTEPS}.losses": self.timestep_sampler.losses_TL,
                    f"{TIMESTEPS}.seen": self.timestep_sampler.counts_T,
                }
            )
        return found

    def check_tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that a checkpoint's tensors, by name, are those of this network and optimizer.

        Raises:
            CheckpointError: Naming the first one that is missing, unknown or of another shape.
        """
        current = {name: tuple(value.shape) for name, value in self.tensors().items()}
        allowed = dict(current)
        for name, parameter in self.parameters.items():
            moments = dict.fromkeys(MOMENTS[self.config.optimizer], tuple(parameter.shape))
            allowed |= {f"{kind}.{name}": shape for kind, shape in {**moments, COUNTER: ()}.items()}
        required = [name for name in current if name.startswith((f"{MODEL}.", f"{EMA}."))]
        for name in (*shapes, *required):
            if name not in shapes or shapes[name] != allowed.get(name):
                expected = allowed.get(name, "no such tensor")
                raise CheckpointError(f"its tensor {name} has shape {shapes.get(name, 'missing')}, expected {expected}")

    def restore(self, keys: Iterable[str], read: Callable[[str], Tensor] | None) -> None:
        """Load the state returned by `tensors`.

        Args:
            keys: Names of the tensors.
            read: Reads a tensor by its name; None in all processes but rank 0.
        """
        self.zero_gradients()
        self.optimizer.state.clear()
        current = self.tensors()
        for key in keys:
            target = current[key] if key in current else self._new_moment(key)
            write(target, self.distributed.broadcast(read(key) if read else None, target))

    def _new_moment(self, key: str) -> Tensor:
        """Create a tensor of the optimizer's state, as it does before a parameter's first update."""
        kind, name = key.split(".", 1)
        parameter = self.parameters[name]
        if kind == COUNTER:
            made = torch.zeros((), device=self.distributed.device if self.optimizer.defaults.get("fused") else "cpu")
        else:
            made = torch.zeros_like(parameter)
        self.optimizer.state[parameter][kind] = made
        return made

    def averaged_weights(self) -> dict[str, Tensor]:
        """Average of every parameter by name, unsharded and on the CPU; a collective call."""
        return {name: whole(value).cpu() for name, value in self.ema.weights(self.model).items()}

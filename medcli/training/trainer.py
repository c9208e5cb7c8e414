"""A network, its optimiser and its average: what a step changes, what a state holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from medcli.diffusion.gaussian import NUM_TRAIN_TIMESTEPS
from medcli.model.backbone import DiffusionTransformer
from medcli.training.batches import TrainBatch
from medcli.training.config import TrainConfig
from medcli.training.distributed import Distributed, whole, write
from medcli.training.ema import Ema
from medcli.training.objective import LadderObjective
from medcli.training.optimizers import optimizer_of
from medcli.training.timestep_sampler import LossSecondMoment

MODEL, EMA, TIMESTEPS = "model", "ema", "timesteps"
"""What tensors of a state are called before their own name; the optimiser's are called as it calls them."""
COUNTER = "step"
"""The optimiser's count of a parameter's updates: a step that leaves a parameter out does not count."""


class StepResult(NamedTuple):
    """One step, measured on the device: nothing has waited for the numbers yet."""

    losses: Tensor
    """(P,) of this process's rows: of the step's pass, and of its masked pass if there is one."""
    grad_norm: Tensor
    """Of all processes, before clipping, a scalar."""

    @property
    def loss(self) -> Tensor:
        """What the step minimised, a scalar."""
        return self.losses.sum()


class PassLosses(NamedTuple):
    """Losses of this process's rows in each pass of a step."""

    means: Tensor
    """(P,) what is minimised."""
    rows: Tensor
    """(P, B) without the rows' weights."""


class Trainer:
    """Trains a network in place.

    Args:
        model: Float32 weights; parameters that need no gradient stay as they are.
        teacher: The network it learns from beside the data, or None.
        config: Of the run.
        distributed: The processes it is trained by.
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
        self.optimizer = optimizer_of(parameters, config.lr, distributed.device, config.optimizer)
        if config.compile:
            model.compile()
        self._objective = distributed.prepare(objective, self.optimizer)
        # Sharding has put others in the parameters' place.
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.ema = Ema(model, config.ema)
        self.draws = LossSecondMoment(NUM_TRAIN_TIMESTEPS) if config.timesteps == "loss" else None
        self.scaler = torch.amp.GradScaler(distributed.device.type, enabled=config.dtype == "fp16")

    def timed(self, batch: TrainBatch, chance_B: Tensor) -> TrainBatch:
        """A batch at the times that this step takes, which may depend on what the steps before it lost.

        Args:
            batch: At evenly drawn times.
            chance_B: What its times are drawn by, `Batches.chances`.
        """
        if self.draws is None:
            return batch
        t_B, weight_B = self.draws.draw(chance_B)
        return batch.timed(t_B.to(batch.t_B), weight_B.to(batch.data_BCYX))

    def _observe(self, t_B: Tensor, rows_PB: Tensor) -> None:
        """Note the losses of all processes' rows, in the same order in each of them."""
        if self.draws is not None:
            # Waits for the device: the next step's times depend on it.
            seen = self.distributed.gather(list(zip(t_B.tolist(), rows_PB.sum(0).tolist(), strict=True)))
            self.draws.observe(*(torch.tensor(part) for part in zip(*seen, strict=True)))

    def learn(self, batch: TrainBatch, lr: float | None = None) -> StepResult:
        """Do one optimiser step on this process's rows of a batch; None: at the run's first learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr if lr is None else lr
        losses = self.gradients(batch)
        self._observe(batch.t_B, losses.rows)
        return StepResult(losses.means, whole(self.update()))

    def update(self) -> Tensor:
        """Clip the gradients, step the optimizer and move the average; return the gradients' norm before clipping."""
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.forget_gradients()
        self.ema.update()
        return grad_norm

    def gradients(self, batch: TrainBatch) -> PassLosses:
        """Compute the gradients of a batch, averaged over processes; they equal those of one pass up to rounding."""
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
        self.scaler.unscale_(self.optimizer)
        return PassLosses(torch.stack(means), torch.stack(rows))

    def forget_gradients(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a state holds, by name; no copies."""
        found = {f"{MODEL}.{name}": value.detach() for name, value in self.model.named_parameters()}
        found.update({f"{EMA}.{name}": value for name, value in self.ema.shadow.items()})
        for name, parameter in self.parameters.items():
            kept = self.optimizer.state.get(parameter, {})
            found.update({f"{kind}.{name}": value for kind, value in kept.items()})
        if self.draws is not None:
            found.update({f"{TIMESTEPS}.losses": self.draws.losses_TL, f"{TIMESTEPS}.seen": self.draws.seen_T})
        return found

    def restore(self, keys: Iterable[str], read: Callable[[str], Tensor] | None) -> None:
        """Become what `tensors` gave.

        Args:
            keys: Their names.
            read: Gives a tensor by its name; None in all processes but the first.
        """
        self.forget_gradients()
        self.optimizer.state.clear()
        there = self.tensors()
        for key in keys:
            target = there[key] if key in there else self._fresh(key)
            write(target, self.distributed.broadcast(read(key) if read else None, target))

    def _fresh(self, key: str) -> Tensor:
        """A part of the optimiser's memory, as it makes it before a parameter's first update."""
        kind, name = key.split(".", 1)
        parameter = self.parameters[name]
        if kind == COUNTER:
            made = torch.zeros((), device=self.distributed.device if self.optimizer.defaults.get("fused") else "cpu")
        else:
            made = torch.zeros_like(parameter)
        self.optimizer.state[parameter][kind] = made
        return made

    def averaged(self) -> dict[str, Tensor]:
        """The average of every parameter by name, whole and on the CPU; every process must ask at once."""
        return {name: whole(value).cpu() for name, value in self.ema.weights(self.model).items()}

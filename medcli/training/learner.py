"""A network, its optimiser and its average: what a step changes, what a state holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from medcli.model.backbone import DiffusionTransformer
from medcli.training.batches import Batch
from medcli.training.config import TrainConfig
from medcli.training.ema import Ema
from medcli.training.fleet import Fleet
from medcli.training.objective import LadderObjective
from medcli.training.optimizers import optimizer_of
from medcli.training.shards import whole, write

MODEL, EMA = "model", "ema"
"""What tensors of a state are called before their parameter's name; the optimiser's are called as it calls them."""
COUNTER = "step"
"""The optimiser's count of a parameter's updates: a step that leaves a parameter out does not count."""


class Measured(NamedTuple):
    """One step, measured on the device: nothing has waited for the numbers yet."""

    losses: Tensor
    """(P,) of this process's rows: of the step's pass, and of its masked pass if there is one."""
    grad_norm: Tensor
    """Of all processes, before clipping, a scalar."""

    @property
    def loss(self) -> Tensor:
        """What the step minimised, a scalar."""
        return self.losses.sum()


class Learner:
    """Trains a network in place.

    Args:
        model: Float32 weights; parameters that need no gradient stay as they are.
        teacher: The network it learns from beside the data, or None.
        config: Of the run.
        fleet: The processes it is trained by.
    """

    def __init__(
        self, model: DiffusionTransformer, teacher: DiffusionTransformer | None, config: TrainConfig, fleet: Fleet
    ) -> None:
        self.model, self.config, self.fleet = model, config, fleet
        objective = LadderObjective(model, config.loss, teacher)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_of(parameters, config.lr, fleet.device, config.optimizer)
        if config.compile:
            model.compile()
        self._objective = fleet.prepare(objective, self.optimizer)
        # Sharding has put others in the parameters' place.
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.ema = Ema(model, config.ema)
        self.scaler = torch.amp.GradScaler(fleet.device.type, enabled=config.dtype == "fp16")

    def learn(self, batch: Batch, lr: float | None = None) -> Measured:
        """Do one optimiser step on this process's rows of a batch; None: at the run's first learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr if lr is None else lr
        losses = self.gradients(batch)
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.forget_gradients()
        self.ema.update()
        return Measured(losses, whole(grad_norm))

    def gradients(self, batch: Batch) -> Tensor:
        """Compute the gradients of a batch, averaged over processes; they equal those of one pass up to rounding.

        Returns:
            (P,) mean loss of this process's rows in each pass.
        """
        passes = [batch] if batch.masked is None else [batch, batch.masked]
        pieces = [list(each.micro_batches(self.config.micro_batch_size)) for each in passes]
        last = pieces[-1][-1]
        losses: list[Tensor] = []
        for part in pieces:
            shares = []
            for piece in part:
                with nullcontext() if piece is last else self.fleet.unsynchronised(self._objective):
                    shares.append(self._pass(piece, len(piece) / len(batch)))
            losses.append(torch.stack(shares).sum())
        self.scaler.unscale_(self.optimizer)
        return torch.stack(losses)

    def _pass(self, piece: Batch, share: float) -> Tensor:
        loss: Tensor = self._objective(*piece[:6]) * share
        self.scaler.scale(loss).backward()
        return loss.detach()

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
            write(target, self.fleet.sent(read(key) if read else None, target))

    def _fresh(self, key: str) -> Tensor:
        """A part of the optimiser's memory, as it makes it before a parameter's first update."""
        kind, name = key.split(".", 1)
        parameter = self.parameters[name]
        if kind == COUNTER:
            made = torch.zeros((), device=self.fleet.device if self.optimizer.defaults.get("fused") else "cpu")
        else:
            made = torch.zeros_like(parameter)
        self.optimizer.state[parameter][kind] = made
        return made

    def averaged(self) -> dict[str, Tensor]:
        """The average of every parameter by name, whole and on the CPU; every process must ask at once."""
        return {name: whole(value).cpu() for name, value in self.ema.weights(self.model).items()}

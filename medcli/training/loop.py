"""A run from its first step, or where it was left, to its last: steps, looks at the losses, states, troubles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from medcli.errors import EnvironmentProblem
from medcli.runtime.prefetch import prefetch
from medcli.runtime.reporting import Reporter
from medcli.training.batches import Batches, TrainBatch
from medcli.training.checkpoints import Snapshots, StateHeader, open_state
from medcli.training.config import AUTO, NEVER, TrainConfig
from medcli.training.distributed import whole
from medcli.training.history import History, MetricsLog, Row, Trouble
from medcli.training.interrupt import Interrupt
from medcli.training.spikes import origin_of_trouble, stop_if_repeated, trouble_of
from medcli.training.trainer import StepResult, Trainer

OnSave = Callable[[int, Mapping[str, Tensor]], None]
OnLog = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """Who else is told what happens. They are called in the first process alone; what they do alters no number."""

    reporter: Reporter
    on_save: OnSave | None = None
    """Gets the steps done and a copy of the averaged weights, float32 on the CPU, after each saved state but the one
    before the first step."""
    on_log: OnLog | None = None
    """Gets each line of `metrics.jsonl`."""


class Session:
    """A run in progress.

    Steps that turn out bad are undone: the newest saved state comes back, and what follows it is done again without
    their batches. Nothing is done about a bad step on the spot, so good steps pay nothing for the guard, and a run
    ends with the very bits of one that had left the batch out from the start.

    Args:
        trainer: What is trained.
        batches: This process's rows of each batch.
        config: The run.
        snapshots: Its saved states.
        metrics: Its log.
        interrupt: Tells when to stop early.
        listeners: Told what happens.
    """

    def __init__(
        self,
        trainer: Trainer,
        batches: Batches,
        config: TrainConfig,
        *,
        snapshots: Snapshots,
        metrics: MetricsLog,
        interrupt: Interrupt,
        listeners: Listeners,
    ) -> None:
        self._trainer, self._batches, self._config, self._distributed = trainer, batches, config, trainer.distributed
        self._snapshots, self._metrics, self._interrupt, self._listeners = snapshots, metrics, interrupt, listeners
        self.history = History()
        self.rollbacks = 0
        """Times this session went back to a saved state."""
        self.num_trained = 0
        """Steps of this session that were trained on, those it took back included."""
        self._pending: list[tuple[int, StepResult]] = []
        self._mark = (monotonic(), 0)

    def run(self) -> None:
        """Train until all steps are done.

        Raises:
            CheckpointError: If saved states can't be continued, or the weights are not finite.
            DataError: If the data can't be read, or images in it are not finite.
            ConfigError: If trouble comes again and again.
            KeyboardInterrupt: If it was interrupted; everything done is saved.
        """
        self._begin()
        while (trouble := self._advance()) is not None:
            self._roll_back(trouble)

    def _begin(self) -> None:
        """Take up a saved state, or save the first one: there is always a state to go back to."""
        wish, snapshots = self._config.resume, self._snapshots
        if wish == AUTO:
            found = self._distributed.broadcast_object(snapshots.newest)
        else:
            found = None if wish == NEVER else self._distributed.broadcast_object(lambda: snapshots.at(Path(wish)))
        if found is not None:
            self._restore(*found)
            done, steps = self.history.done, self._config.steps
            way = f"going on after step {done}" if done < steps else f"{done} steps are done, {steps} were asked for"
            self._note(f"{way} ({found[0]})")
        if found is None or wish != AUTO:
            self._save()
        self._cut_metrics()

    def _advance(self) -> Trouble | None:
        """Train until the end, or until a look at the losses finds trouble."""
        with prefetch(self._batches.draw, range(self.history.done, self._config.steps)) as drawn:
            for step, batch in drawn:
                done = step + 1
                self._take(done, batch)
                is_stopped = self._interrupt.is_wanted()
                is_logged = self._is_due(done, self._config.log_every)
                is_saved = self._is_due(done, self._config.save_every)
                if (is_stopped or is_logged or is_saved) and (trouble := self._look()) is not None:
                    return trouble
                if is_logged:
                    self._log()
                if is_stopped or is_saved:
                    self._save_and_tell()
                if is_stopped:
                    self._note(f"stopped after step {done}; the same command goes on from there")
                    raise KeyboardInterrupt
        return None

    def _is_due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self._config.steps

    def _take(self, done: int, batch: TrainBatch) -> None:
        """Train on a batch, or skip it."""
        trouble = next((trouble for trouble in self.history.troubles if trouble.step == done), None)
        batch = self._trainer.timed(batch, self._batches.chances(done - 1))
        if trouble is not None and trouble.tensor is None:
            self._explain(trouble, batch)
        elif trouble is None and done not in self._config.skip_steps:
            self._pending.append((done, self._trainer.learn(batch, self._config.lr_at(done - 1))))
            self.num_trained += 1
        self.history.done = done
        if self._distributed.is_first:
            self._listeners.reporter.progress(done, self._config.steps, "steps")

    def _explain(self, trouble: Trouble, batch: TrainBatch) -> None:
        picks = self._batches.order.picks(self._batches.positions(trouble.step - 1))
        tensor = origin_of_trouble(self._trainer, batch, picks)
        self.history.explain(trouble.step, tensor)
        self._note(f"step {trouble.step} is skipped: {trouble.what}; {tensor}")

    def _look(self) -> Trouble | None:
        """Wait for the numbers of the steps since the last look, and judge them in their order."""
        pending, self._pending = self._pending, []
        if not pending:
            return None
        measured = [torch.cat([measured.losses, measured.grad_norm[None]]) for _, measured in pending]
        # One value for all processes: they must not disagree about what is trouble.
        values = self._distributed.mean(torch.stack(measured)).tolist()
        for (done, _), (loss, *masked, grad_norm) in zip(pending, values, strict=True):
            counts = tuple(sorted(set(self._batches.counts(done - 1))))
            row = Row(done, counts, loss + sum(masked), grad_norm, *masked)
            recent = self.history.losses_of(row.counts)
            may_overflow = self._config.dtype == "fp16"
            trouble = trouble_of(row, recent, self._config.spike_factor, may_overflow=may_overflow)
            if trouble is not None:
                return trouble
            self.history.rows.append(row)
        return None

    def _roll_back(self, trouble: Trouble) -> None:
        """Undo what came after the newest saved state, and leave the trouble's batch out from now on."""
        troubles = (*self.history.troubles, trouble)
        stop_if_repeated(troubles, self._config.max_rollbacks)
        found = self._distributed.broadcast_object(self._snapshots.newest)
        if found is None:  # `_begin` saved one
            raise EnvironmentProblem("the run's saved states went away while it ran", hint="run the command again")
        self._restore(*found)
        self.history.troubles = troubles
        self.rollbacks += 1
        self._cut_metrics()
        self._note(f"step {trouble.step}: {trouble.what}; going back to step {self.history.done} to leave it out")

    def _restore(self, path: Path, header: StateHeader) -> None:
        if self._distributed.is_first:
            with open_state(path) as (_, read):
                self._trainer.restore(header.keys, read)
        else:
            self._trainer.restore(header.keys, None)
        self._trainer.scaler.load_state_dict(header.scaler)
        self.history = History.from_json(header.journal)

    def _save(self) -> None:
        """Save a state; every process takes part, for each may hold a part of it."""
        tensors: dict[str, Tensor] = {}
        for name, value in self._trainer.tensors().items():
            complete = whole(value)
            if self._distributed.is_first:
                tensors[name] = complete.cpu()
        scaler = self._trainer.scaler.state_dict()
        self._distributed.broadcast_object(lambda: self._snapshots.save(tensors, self.history.to_json(), scaler))

    def _save_and_tell(self) -> None:
        self._save()
        if self._listeners.on_save is not None:
            averaged = self._trainer.averaged()
            if self._distributed.is_first:
                self._listeners.on_save(self.history.done, {name: value.clone() for name, value in averaged.items()})
        self._distributed.wait()

    def _log(self) -> None:
        """Add a line: averages over the steps since the last one that a straight run would have written."""
        done, every = self.history.done, self._config.log_every
        (then, before), self._mark = self._mark, (monotonic(), self.num_trained)
        if not self._distributed.is_first:
            return
        rows = self.history.after((done - 1) // every * every)
        images = (self.num_trained - before) * self._config.global_batch_size
        skipped = {trouble.step for trouble in self.history.troubles} | set(self._config.skip_steps)
        line = {
            "step": done,
            "loss": _mean([row.loss for row in rows]),
            "grad_norm": _mean([row.grad_norm for row in rows]),
            **self._both_losses(rows),
            "images_per_sec": round(images / (monotonic() - then), 2),
            "skipped": sum(step <= done for step in skipped),
        }
        self._metrics.add(line)
        if self._listeners.on_log is not None:
            self._listeners.on_log(line)

    def _both_losses(self, rows: list[Row]) -> dict[str, float | None]:
        """The parts of the loss in masked training."""
        if self._config.masking is None:
            return {}
        masked = [row.masked_loss or 0.0 for row in rows]
        full = [row.loss - part for row, part in zip(rows, masked, strict=True)]
        return {"full_loss": _mean(full), "masked_loss": _mean(masked)}

    def _cut_metrics(self) -> None:
        self._mark = (monotonic(), self.num_trained)
        if self._distributed.is_first:
            self._metrics.cut(self.history.done, self._config.log_every)

    def _note(self, text: str) -> None:
        if self._distributed.is_first:
            self._listeners.reporter.note(text)


def _mean(values: list[float]) -> float | None:
    return round(fmean(values), 6) if values else None

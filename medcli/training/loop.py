"""Training loop of a run: steps, loss checks, checkpoints, rollbacks and logging."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcli.data.training_set import LenientSet
from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.prefetch import prefetch
from medcli.runtime.reporting import Reporter
from medcli.training.batches import Batches, TrainBatch
from medcli.training.checkpoints import CheckpointFolder, CheckpointHeader, open_training_checkpoint
from medcli.training.config import AUTO, NEVER, TrainConfig
from medcli.training.distributed import whole
from medcli.training.history import BadStep, History, Row
from medcli.training.interrupt import Interrupt
from medcli.training.metrics_log import MetricsLog
from medcli.training.spikes import find_origin, judge, stop_if_repeated, stop_untrained
from medcli.training.trainer import StepResult, Trainer

OnStart = Callable[[Mapping[str, Any] | None], None]
OnSave = Callable[[int, Mapping[str, Tensor]], None]
OnLog = Callable[[Mapping[str, Any]], None]

MAX_NOTES = 3
"""Notes about unreadable images in one session; further ones are only counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Callbacks:
    """Callbacks of a run, in rank 0 only; they change no number."""

    reporter: Reporter
    on_start: OnStart | None = None
    """Called once the folder is known to be this run's, with `History.resumed_from`."""
    on_save: OnSave | None = None
    """Called after each checkpoint but the one before the first step, and when resuming from one, with the steps done
    and a copy of the averaged weights, float32 on the CPU."""
    on_log: OnLog | None = None
    """Called with each line of `metrics.jsonl`."""


class TrainingLoop:
    """Run of a trainer from its first step, or a checkpoint, to its last.

    A bad step (spike, NaN) is undone: the newest checkpoint is restored and the steps after it are repeated without the
    bad batch. Losses are only read when a line or a checkpoint is due, so good steps never wait, and the run ends with
    the very bits of one that had skipped the batch from the start.

    Args:
        trainer: Network, optimizer and average.
        batches: Rows of each batch that this process trains on.
        data: Data set of the batches.
        checkpoints: Checkpoints in the run's folder.
        metrics: Log of the run.
        interrupt: Requests to stop early.
        callbacks: Called on progress, checkpoints and log lines.
    """

    def __init__(
        self,
        trainer: Trainer,
        batches: Batches,
        config: TrainConfig,
        *,
        data: LenientSet,
        checkpoints: CheckpointFolder,
        metrics: MetricsLog,
        interrupt: Interrupt,
        callbacks: Callbacks,
    ) -> None:
        self._trainer, self._batches, self._config, self._distributed = trainer, batches, config, trainer.distributed
        self._checkpoints, self._metrics, self._interrupt, self._callbacks = checkpoints, metrics, interrupt, callbacks
        self._data = data
        self.history = History()
        self.rollbacks = 0
        """Rollbacks of this session."""
        self.num_trained = 0
        """Steps this session trained on, undone ones included."""
        self._pending: list[tuple[int, StepResult]] = []
        self._num_noted = 0
        self._measured = ""
        """Loss and speed of the last line of the log."""

    def run(self) -> None:
        """Train until all steps are done.

        Raises:
            CheckpointError: If checkpoints can't be resumed, or the weights are not finite.
            DataError: If the data can't be read, or images in it are not finite.
            ConfigError: If too many steps are bad.
            KeyboardInterrupt: If it was interrupted; everything done is saved.
        """
        self._resume_or_save()
        while (bad_step := self._train_until_bad_step()) is not None:
            self._roll_back(bad_step)
        if not self.history.rows:
            stop_untrained(self.history.bad_steps, self.history.done)

    def _resume_or_save(self) -> None:
        """Restore a checkpoint, or save the first one, so that there is always one to roll back to."""
        resume, note = self._config.resume, None
        find = partial(self._checkpoints.find, resume, self._trainer.check_tensors)
        found = None if resume == NEVER else self._distributed.broadcast_object(find)
        if found is not None:
            path, header, resumed_from = found
            self._restore(path, header)
            self.history.resumed_from = resumed_from or self.history.resumed_from
            done, steps = self.history.done, self._config.steps
            way = f"resuming from step {done}" if done < steps else f"{done} steps are done, {steps} were requested"
            note = f"{way} ({path})"
        if found is None or resume != AUTO:
            self._save()
        self._cut_metrics()
        if note is not None:
            self._note(note)
        if self._callbacks.on_start is not None and self._distributed.is_first:
            self._callbacks.on_start(self.history.resumed_from)
        if found is not None and self.history.done:  # a kill may have come between the checkpoint and this call
            self._call_on_save()

    def _train_until_bad_step(self) -> BadStep | None:
        """Train to the end, or until a loss check finds a bad step, which is returned."""
        with prefetch(self._batches.draw, range(self.history.done, self._config.steps)) as drawn:
            for step, batch in self._readable(drawn):
                done = step + 1
                self._train_step(done, batch)
                is_stopped = self._interrupt.is_requested()
                is_logged = self._is_due(done, self._config.log_every)
                is_saved = self._is_due(done, self._config.save_every)
                if (is_stopped or is_logged or is_saved) and (bad_step := self._find_bad_step()) is not None:
                    return bad_step
                if is_stopped or is_logged or is_saved:
                    self._count_unreadable()
                if is_logged:
                    self._log()
                if is_stopped or is_saved:
                    self._save_and_call()
                if is_stopped:
                    raise KeyboardInterrupt(f"step {done} is saved; {self._config.resuming_command} resumes there")
        return None

    def _readable(self, drawn: Iterator[tuple[int, TrainBatch]]) -> Iterator[tuple[int, TrainBatch]]:
        """Pass batches on; once a process can't read its data, save the steps done and raise its error in all."""
        for _ in range(self.history.done, self._config.steps):
            problems: list[DataError] = []
            try:
                drawn_batch = next(drawn)
            except DataError as err:
                problems = [err]
            if self._interrupt.exchange(has_failed=bool(problems)):
                first = self._distributed.gather(problems)[0]
                if self._find_bad_step() is None:
                    self._count_unreadable()
                    self._save_and_call()
                raise first
            yield drawn_batch

    def _count_unreadable(self) -> None:
        """Record the unreadable images that all processes have found."""
        found = self._distributed.gather(list(self._data.unreadable))
        self.history.unreadable |= frozenset(found)

    def _note_unreadable(self) -> None:
        """Note images that this process could not read."""
        for number, what in list(self._data.unreadable.items())[self._num_noted : MAX_NOTES]:
            self._callbacks.reporter.note(f"image {number} is left out: {what}")
        self._num_noted = len(self._data.unreadable)

    def _is_due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self._config.steps

    def _train_step(self, done: int, batch: TrainBatch) -> None:
        """Train on a batch, or skip it if it is known to be bad."""
        bad_step = next((bad_step for bad_step in self.history.bad_steps if bad_step.step == done), None)
        batch = self._trainer.with_timesteps(batch, self._batches.time_uniforms(done - 1))
        if bad_step is not None and bad_step.tensor is None:
            self._explain(bad_step, batch)
        elif bad_step is None and done not in self._config.skip_steps:
            self._pending.append((done, self._trainer.train_step(batch, done)))
            self.num_trained += 1
        self.history.done = done
        if self._distributed.is_first:
            self._callbacks.reporter.progress(done, self._config.steps, "steps", self._measured)
            if len(self._data.unreadable) > self._num_noted:
                self._note_unreadable()

    def _explain(self, bad_step: BadStep, batch: TrainBatch) -> None:
        picks = self._batches.order.picks(self._batches.positions(bad_step.step - 1))
        tensor = find_origin(self._trainer, batch, picks)
        self.history.explain(bad_step.step, tensor)
        self._note(f"step {bad_step.step} is skipped: {bad_step.what}; {tensor}")

    def _find_bad_step(self) -> BadStep | None:
        """Read the losses of the steps since the last check and judge them in order."""
        pending, self._pending = self._pending, []
        if not pending:
            return None
        measured = [torch.cat([measured.losses, measured.grad_norm[None]]) for _, measured in pending]
        # One value for all processes: they must agree on bad steps.
        values = self._distributed.mean(torch.stack(measured)).tolist()
        for (done, _), (loss, *masked, grad_norm) in zip(pending, values, strict=True):
            counts = tuple(sorted(set(self._batches.counts(done - 1))))
            row = Row(done, counts, loss + sum(masked), grad_norm, *masked)
            recent = self.history.losses_of(row.counts)
            may_overflow = self._config.dtype == "fp16"
            bad_step = judge(row, recent, self._config.spike_factor, may_overflow=may_overflow)
            if bad_step is not None:
                return bad_step
            self.history.add(row, self._metrics.line_before(done))
        return None

    def _roll_back(self, bad_step: BadStep) -> None:
        """Restore the newest checkpoint and skip the bad step's batch from now on."""
        bad_steps = (*self.history.bad_steps, bad_step)
        stop_if_repeated(bad_steps, self._config.max_rollbacks)
        found = self._distributed.broadcast_object(self._checkpoints.newest)
        if found is None:  # `_resume_or_save` saved one
            raise EnvironmentProblem("the run's checkpoints were removed while it ran", hint="run the command again")
        unreadable = self.history.unreadable
        self._restore(*found)
        self.history.bad_steps, self.history.unreadable = bad_steps, self.history.unreadable | unreadable
        self.rollbacks += 1
        self._cut_metrics()
        self._note(f"step {bad_step.step}: {bad_step.what}; rolling back to step {self.history.done} to skip it")

    def _restore(self, path: Path, header: CheckpointHeader) -> None:
        if self._distributed.is_first:
            with open_training_checkpoint(path) as (_, read):
                self._trainer.restore(header.keys, read)
        else:
            self._trainer.restore(header.keys, None)
        self._trainer.scaler.load_state_dict(header.scaler)
        self.history = History.from_json(header.journal)

    def _save(self) -> None:
        """Save a checkpoint; all processes take part, since each may hold a shard."""
        tensors: dict[str, Tensor] = {}
        for name, value in self._trainer.tensors().items():
            complete = whole(value)
            if self._distributed.is_first:
                tensors[name] = complete.cpu()
        scaler = self._trainer.scaler.state_dict()
        self._distributed.broadcast_object(lambda: self._checkpoints.save(tensors, self.history.to_json(), scaler))

    def _save_and_call(self) -> None:
        self._save()
        self._call_on_save()
        self._distributed.barrier()

    def _call_on_save(self) -> None:
        if self._callbacks.on_save is not None:
            averaged = self._trainer.averaged_weights()
            if self._distributed.is_first:
                self._callbacks.on_save(self.history.done, {name: value.clone() for name, value in averaged.items()})

    def _log(self) -> None:
        if not self._distributed.is_first:
            return
        line = self._metrics.add(self.history, self.num_trained)
        loss = "" if line["loss"] is None else f"loss {line['loss']:.4f}, "
        self._measured = f"{loss}{line['images_per_sec']:.3g} images/s"
        if self._callbacks.on_log is not None:
            self._callbacks.on_log(line)

    def last_loss(self) -> float | None:
        """Return the mean loss over the steps of the last log line; None without a good step."""
        return self._metrics.mean("loss", self.history)

    def _cut_metrics(self) -> None:
        if self._distributed.is_first:
            self._metrics.cut(self.history.done, self.num_trained)

    def _note(self, text: str) -> None:
        if self._distributed.is_first:
            self._callbacks.reporter.note(text)

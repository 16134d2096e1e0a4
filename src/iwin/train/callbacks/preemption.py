"""A run that is asked to stop saves itself first, on every rank after the same update, and says "resume me"."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import TracebackType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from iwin.durations import parse
from iwin.errors import ConfigError
from iwin.exit_codes import RESUME
from iwin.train.callbacks.checkpoints import Checkpoints
from iwin.train.endings import ResumeLater
from iwin.train.ranks import HostGroup, Pending
from iwin.train.signals import StopSignals, keep_lightning_out

MOST_UPDATES = 25
VAL_PROGRESS = "epoch_loop.val_loop.batch_progress"


class Preemption(Checkpoint):
    """Stops training at SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C. A context manager: enter it around trainer.fit.

    The handler only notes the signal. With several ranks, all ask each other after every `every` updates
    whether one of them has noted one, and act upon the answer an update later; alone, a run looks after each
    update. Then it saves, and every rank raises ResumeLater before the next batch, once the update is logged.

    During validation the ranks ask after every so many batches. A validation that is under way is broken off,
    without a trace in the log, and what is saved stands at its beginning: a resumed run makes all of it. At the
    end of the last epoch nothing is left to resume, and the run ends as it would have.

    save: writes a checkpoint of the trainer as it is; all ranks call it. None saves with the trainer's `Checkpoints`,
        which stands before this callback; without any, nothing is saved, and the same command begins anew.

    A subclass of Lightning's Checkpoint, as those run after all other callbacks: when this one saves, averaged
    weights and counters are up to date.

    Raises:
        ConfigError: every is not from 1st to 25st.
    """

    def __init__(self, every: str = "10st", save: Callable[[lightning.Trainer], object] | None = None) -> None:
        updates, unit = parse(every, "callbacks.preemption.every")
        if unit != "st" or not 1 <= updates <= MOST_UPDATES:
            raise ConfigError(
                f"callbacks.preemption.every={every} must be updates, from 1st to {MOST_UPDATES}st: with more a "
                "run may be killed before it has heard the signal"
            )
        self.every = int(updates)
        self.save = save
        self._signals = StopSignals()
        self._group: HostGroup | None = None
        self._pending: Pending | None = None
        self._agreed = 0  # the signal that all ranks know of
        self._updates = 0
        self._saved = False
        self._val_batches = 0  # that every rank has
        self._breaking_off = False
        self._save_begin_of_validation = False

    def __enter__(self) -> Preemption:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.__exit__()

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        keep_lightning_out(trainer)
        if self.save is None:
            others = trainer.checkpoint_callbacks
            self.save = next((other.save for other in others if isinstance(other, Checkpoints)), None)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._group, self._pending = HostGroup(), None
        self._updates, self._agreed, self._saved = trainer.global_step, 0, False
        if self._ask():
            self._stop(trainer)  # nothing was done that could be saved

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._saved:
            self._stop(trainer)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._saved:
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._updates:
            return  # between the batches of an update
        self._updates = trainer.global_step
        if self._group is not None and self._group.ranks == 1:
            self._ask()
        else:
            self._hear()
            if self._updates % self.every == 0:
                self._begin_to_ask()
        # After an epoch's last update Lightning resumes with the next epoch, and the validation would be lost.
        if self._agreed and not trainer.is_last_batch:
            self._save(trainer)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.sanity_checking or self._group is None:
            return
        progress: Any = trainer
        progress.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()  # see on_save_checkpoint
        self._val_batches = self._group.smallest(int(sum(trainer.num_val_batches)))
        if self._ask():
            self._save_and_stop(trainer)

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or self._group is None:
            return
        due = self._group.ranks == 1 or batch_idx % self.every == 0
        if due and 0 < batch_idx < self._val_batches and self._ask():
            self._breaking_off = True
            raise StopIteration  # ends the loop over the batches; other callbacks then put their weights back

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._breaking_off:
            self._breaking_off = False
            self._save_and_stop(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._ask() and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Where it stands at the begin of a validation, make Lightning do all of that at a resume.

        Lightning would take the validation for done. It goes back into one whose first batch has begun, and then
        begins with that.
        """
        if self._save_begin_of_validation:
            progress = checkpoint["loops"]["fit_loop"][VAL_PROGRESS]
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress["total"], progress["current"], progress["is_last_batch"] = dict(begun), dict(begun), False

    def _ask(self) -> int:
        """The signal that any rank has noted, 0 for none; waits for all of them."""
        self._hear()
        if not self._agreed:
            self._begin_to_ask()
            self._hear()
        return self._agreed

    def _begin_to_ask(self) -> None:
        assert self._group is not None
        self._pending = self._group.begin_largest(self._signals.received)

    def _hear(self) -> None:
        if self._pending is not None:
            self._agreed, self._pending = self._pending.result(), None

    def _save(self, trainer: lightning.Trainer) -> None:
        if not self._saved:
            if self.save is not None:
                self.save(trainer)
            self._saved = True

    def _save_and_stop(self, trainer: lightning.Trainer) -> None:
        self._save_begin_of_validation = True
        try:
            self._save(trainer)
        finally:
            self._save_begin_of_validation = False
        self._stop(trainer)

    def _stop(self, trainer: lightning.Trainer) -> None:
        if trainer.is_global_zero:
            name = signal.Signals(self._agreed).name
            if self.save is None:
                goes_on = "Nothing is saved, as there are no callbacks.checkpoints: the same command begins anew"
            else:
                goes_on = "Everything is saved: the same command goes on from there"
            print(f"Stopped by {name} after update {trainer.global_step}. {goes_on} (exit code {RESUME}).", flush=True)
        raise ResumeLater

"""When a checkpoint is saved, how many are kept, and which one is the best."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from iwin.durations import parse, to_updates
from iwin.errors import ConfigError, near_names, whole
from iwin.train.checkpoint import DurableCheckpointIO, SaveError
from iwin.train.durable import link_checkpoint, remove_checkpoint
from iwin.train.recovery import BEST, read_checkpoint, set_aside, unusable, update_checkpoints, update_name
from iwin.weights.digest import damage

EVERY = "callbacks.checkpoints.every"
BETTER = {"max": operator.gt, "min": operator.lt}


class Best(NamedTuple):
    """The best score of a run so far, and after how many updates it was reached."""

    score: float
    update: int


class Checkpoints(Checkpoint):
    """Saves update-NNNNNNNN.ckpt, the number being that of the updates done, and keeps best.ckpt beside.

    every: durations; it saves after each so many epochs ("1ep"), updates ("500st") or shares of the run ("5%"), after
        the last epoch, and where a validation was the best so far. An epoch's last update is saved at the end of the
        epoch, with its validation.
    keep: so many of the newest stay; one is removed only once a newer one is safe.
    monitor, mode: best.ckpt is where this metric was highest ("max") or lowest ("min") after a validation, the first
        of equals. No best.ckpt without a monitor.

    Needs `DurableCheckpointIO` among the trainer's plugins. A run that goes on takes the best with it: if best.ckpt
    is damaged, or a kill came between a checkpoint and its being made known as the best, that is mended.

    Raises, on every rank:
        ConfigError: a value that cannot be used; at the end of the first validation, a monitor that is not logged.
        SaveError: by the next save or the end of training, where a checkpoint could not be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: Sequence[str] = ("1ep",),
        keep: int = 2,
        monitor: str | None = "val/top1",
        mode: str = "max",
    ) -> None:
        self.folder = folder
        if isinstance(every, str) or not every:
            raise ConfigError(f"{EVERY}={every} must be a list of durations, as [1ep, 500st]")
        self.every = tuple(every)
        for duration in self.every:
            if parse(duration, EVERY)[0] == 0:
                raise ConfigError(f"{EVERY}={duration} must be above 0")
        self._every: list[int] = []  # in updates
        self.keep = whole("callbacks.checkpoints.keep", keep, 1)
        if mode not in BETTER:
            raise ConfigError(f"callbacks.checkpoints.mode={mode}: {near_names(str(mode), BETTER)}")
        self.monitor = monitor
        self.mode = mode
        self.best: Best | None = None
        self._score: float | None = None  # of this epoch's validation, once there was one
        self._saved_at = 0
        self._resumed = False

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            _io(trainer)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._saved_at = trainer.global_step
        per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        total = per_epoch * (trainer.max_epochs or 1)
        self._every = [max(1, to_updates(duration, per_epoch=per_epoch, total=total)) for duration in self.every]
        if self._resumed and self.monitor is not None:
            if trainer.is_global_zero:
                self.best = self._mended_best()
            self.best = trainer.strategy.broadcast(self.best)
        self._resumed = False

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._is_due(trainer) and not trainer.is_last_batch:
            self.save(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.monitor is None or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            raise ConfigError(
                f"callbacks.checkpoints.monitor={self.monitor} is not among the metrics of the validation; "
                f"{near_names(self.monitor, metrics)}"
            )
        self._score = float(metrics[self.monitor])

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_last_batch:
            return  # training was stopped inside of the epoch; saved here, the epoch would count as done
        score, self._score = trainer.strategy.broadcast(self._score), None
        if score is not None and self._is_better(score):
            self.best = Best(score, trainer.global_step)
        is_last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        if is_last or self._is_best(trainer) or self._is_due(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.wait(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """See the last write to its end. That it failed is told beside what ends training, not instead of it."""
        try:
            _io(trainer).wait()
        except SaveError as error:
            exception.add_note(str(error))
            print(f"error: {error}", file=sys.stderr, flush=True)

    def save(self, trainer: lightning.Trainer) -> None:
        """Save where training stands, unless that was done; returns once it is copied to host memory.

        For all ranks together, inside an epoch. SaveError, on every rank, where the one before could not be written.
        """
        if trainer.global_step != self._saved_at:
            self._save(trainer)

    def wait(self, trainer: lightning.Trainer) -> None:
        """Return when every checkpoint is safe on the disk. For all ranks together; SaveError on every one."""
        failure: str | None = None
        if trainer.is_global_zero:
            try:
                _io(trainer).wait()
            except SaveError as error:
                failure = str(error)
        failure = trainer.strategy.broadcast(failure)
        if failure is not None:
            raise SaveError(failure)

    def state_dict(self) -> dict[str, Any]:
        return {"best": None if self.best is None else self.best._asdict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = None if state_dict["best"] is None else Best(**state_dict["best"])
        self._resumed = True

    def _save(self, trainer: lightning.Trainer) -> None:
        self.wait(trainer)
        update = self._saved_at = trainer.global_step
        is_best = self._is_best(trainer)

        def settle(path: Path) -> None:
            if is_best:
                link_checkpoint(path, self.folder / BEST)
            for older in update_checkpoints(self.folder)[self.keep :]:
                remove_checkpoint(older)

        trainer.save_checkpoint(self.folder / update_name(update), storage_options=settle)

    def _is_due(self, trainer: lightning.Trainer) -> bool:
        return any(trainer.global_step % updates == 0 for updates in self._every)

    def _is_best(self, trainer: lightning.Trainer) -> bool:
        return self.best is not None and self.best.update == trainer.global_step

    def _is_better(self, score: float) -> bool:
        """NaN never is; of equals the first stays."""
        return not math.isnan(score) and (self.best is None or BETTER[self.mode](score, self.best.score))

    def _mended_best(self) -> Best | None:
        """The best of the run, with best.ckpt being it. The one that is there wins if it is of a later update.

        It can be where the checkpoints after the one that the run goes on from were damaged, or a run was rolled
        back: it is valid, and not lost for that.
        """
        path = self.folder / BEST
        there = self._best_in(path) if path.exists() else None
        if there is not None and (self.best is None or there.update >= self.best.update):
            return there
        if self.best is None:
            return None
        source = self.folder / update_name(self.best.update)
        if source.exists() and damage(source) is None:
            link_checkpoint(source, path)
            return self.best
        lost = f"{self.best.score:g} after {self.best.update} updates"
        if there is None:
            print(f"The best checkpoint so far ({lost}) is lost; the next validation makes a new one.", flush=True)
        else:
            print(f"The best checkpoint so far ({lost}) is lost; {BEST} is the one before.", flush=True)
        return there

    def _best_in(self, path: Path) -> Best | None:
        """What best.ckpt says of itself; None where it is damaged, and is set aside."""
        why = damage(path) or unusable(path)
        if why is not None:
            print(f"{path.name} is damaged: {why}. It is kept as {set_aside(path).name}.", flush=True)
            return None
        best = read_checkpoint(path)["callbacks"][self.state_key]["best"]
        return None if best is None else Best(**best)


def _io(trainer: lightning.Trainer) -> DurableCheckpointIO:
    checkpoint_io = trainer.strategy.checkpoint_io
    if not isinstance(checkpoint_io, DurableCheckpointIO):
        raise TypeError("Checkpoints saves through DurableCheckpointIO: give it to the trainer among its plugins")
    return checkpoint_io

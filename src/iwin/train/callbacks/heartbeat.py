"""Tells the watchdog that a run is alive, and how long what comes next may take."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from iwin.errors import number
from iwin.exit_codes import RANK_LOST
from iwin.train.endings import Ended, ending_of, say
from iwin.train.launcher import end_started
from iwin.train.rollback import RollBack
from iwin.train.watchdog import GRACE_S, Watchdog, code_after_others, write_stacks


class Heartbeat(Callback):
    """Ends a run that hangs or has lost a process, on every rank. A context manager: enter it around trainer.fit.

    training_s: seconds from one batch of training to the next, and for that to come from the data set.
    setup_s: seconds for anything else: the ranks to come together, the first batch of an epoch, which may
        compile and fill the workers' queues, one batch of validation, the saving of a checkpoint.

    A rank that does not get on for longer has its stacks written, and ends with exit code 69. So do the others,
    which wait for it. The loss of a data worker ends the run with a message, and exit code 71.

    Raises:
        ConfigError: not a number of seconds from 1.
        Ended: in place of an error that says that a process is lost, when the context is left.
    """

    def __init__(self, folder: Path, setup_s: float = 300.0, training_s: float = 100.0) -> None:
        self.setup_s = number("callbacks.heartbeat.setup_s", setup_s, 1)
        self.training_s = number("callbacks.heartbeat.training_s", training_s, 1)
        self.folder = folder
        self._watchdog = Watchdog(folder)
        self._rank, self._ranks = 0, 1

    def __enter__(self) -> Heartbeat:
        self._slow("bringing the ranks together")
        self._watchdog.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.__exit__()
        if error is None or isinstance(error, SystemExit | KeyboardInterrupt | RollBack):
            return  # every rank ends so
        ending = ending_of(error, self._ranks)
        if ending is not None:
            code, message = ending
            say(message, self._rank if self._ranks > 1 else None)
            if code == RANK_LOST:
                write_stacks(self.folder, self._rank, message, error)
        end_started(GRACE_S)
        if ending is not None:
            raise Ended(code_after_others() if code == RANK_LOST else code) from error

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._rank, self._ranks = trainer.global_rank, trainer.world_size
        self._slow("setting up")

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._slow("starting the workers")

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._slow("making the first batch of an epoch")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._watchdog.beat(f"training, after update {trainer.global_step}", self.training_s)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._slow("beginning to validate")

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._slow("validating")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._slow("ending a validation")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._slow("ending an epoch")

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._slow("saving a checkpoint")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._slow("ending")

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._slow("ending after an error")

    def _slow(self, doing: str) -> None:
        self._watchdog.beat(doing, self.setup_s)

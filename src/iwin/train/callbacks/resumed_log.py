"""The log of a resumed run has each update once."""

from __future__ import annotations

import lightning
from lightning.pytorch.callbacks import Callback

from iwin.train.metrics_csv import MetricsCSV


class ResumedLog(Callback):
    """Drops from metrics.csv what was logged after the checkpoint that training goes on from."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.truncate_after(trainer.global_step)

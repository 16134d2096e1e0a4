"""curves.png beside metrics.csv, kept up to date while a run goes on."""

from __future__ import annotations

import time
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback

from iwin.train.metrics_csv import read_metrics
from iwin.train.plots import curves


class Curves(Callback):
    """Draws loss, accuracy and learning rate over epochs from the run's metrics.csv.

    At the end, and after a validation when the picture is older than `every_s` seconds: drawing takes
    about half a second, which short epochs would notice.
    """

    def __init__(self, folder: Path, every_s: float = 30.0) -> None:
        self.folder = folder
        self.every_s = every_s
        self._drawn_at = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if time.monotonic() - self._drawn_at >= self.every_s:
            self.draw(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.draw(trainer)

    def draw(self, trainer: lightning.Trainer) -> None:
        """Draw on rank 0, unless nothing has been logged yet."""
        log = self.folder / "metrics.csv"
        if trainer.is_global_zero and log.is_file() and len(read_metrics(log)["step"]):
            curves(log, self.folder / "curves.png", self.folder.name)
            self._drawn_at = time.monotonic()

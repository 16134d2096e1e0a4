"""The validation of loaded weights before the first update: what they bring, which is what training is to better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np

from iwin.train.metrics_csv import MetricsCSV, read_metrics


def validate_before(trainer: lightning.Trainer, task: lightning.LightningModule, data: Any) -> None:
    """Validate the weights as they are, on all ranks, and log it as update 0.

    For a run that begins: what an earlier start of it had logged is taken back.
    """
    if trainer.is_global_zero:
        print("Before any update:", flush=True)  # the progress that follows has the numbers
    loggers, trainer.loggers = trainer.loggers, []  # Lightning would log it as the first update
    (metrics,) = trainer.validate(task, datamodule=data, verbose=False)
    trainer.loggers = loggers
    for logger in loggers:
        if isinstance(logger, MetricsCSV):
            logger.truncate_after(0)
            logger.log_metrics({"epoch": 0, **metrics}, step=-1)  # it counts the updates done, from the step's index
        else:
            logger.log_metrics(dict(metrics), step=0)


def validated_before(folder: Path) -> dict[str, float] | None:
    """The metrics of update 0 in a run's log; None where there are none."""
    table = read_metrics(folder / "metrics.csv")
    (rows,) = np.nonzero(table["step"] == 0)
    if not len(rows):
        return None
    return {name: float(column[rows[0]]) for name, column in table.items() if name.startswith("val/")}

"""Images that cannot be decoded are counted and named, and a run with too many of them stops."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from iwin.batch import Batch
from iwin.errors import DataError, number

NAMED = 10  # in the error; the file has them all


class BadSamples(Callback):
    """Notes each training image that others stand in for (Batch.bad), and stops at more than `max_fraction` of all.

    Each is told once, when it is first met. `folder`/bad_samples.csv holds them all, with the reason; with several
    processes those of the others come in at the end of an epoch.

    Raises:
        ConfigError: max_fraction is not from 0 to below 1.
        DataError: while training, more than that share of the training images is damaged.
    """

    def __init__(self, folder: Path, max_fraction: float) -> None:
        self.path = folder / "bad_samples.csv"
        self.max_fraction = number("callbacks.bad_samples.max_fraction", max_fraction, 0, 1)
        self._reasons: dict[str, str] = {}

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        new = {sample.key: sample.reason for sample in batch.bad if sample.key not in self._reasons}
        if not new:
            return
        self._reasons.update(new)
        for key, reason in new.items():
            print(f"bad sample {key}: another stands in for it. {reason}", flush=True)
        self._write(trainer)
        self._stop_at_too_many(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.world_size > 1:
            parts: list[dict[str, str] | None] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self._reasons)
            self._reasons = {key: reason for part in parts for key, reason in (part or {}).items()}
            self._write(trainer)
            self._stop_at_too_many(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"reasons": dict(self._reasons)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._reasons = dict(state_dict["reasons"])

    def _write(self, trainer: lightning.Trainer) -> None:
        if trainer.is_global_zero and self._reasons:
            with self.path.open("w", newline="") as file:
                csv.writer(file).writerows([("key", "reason"), *sorted(self._reasons.items())])

    def _stop_at_too_many(self, trainer: lightning.Trainer) -> None:
        data: Any = getattr(trainer, "datamodule")  # noqa: B009 - Lightning's class does not declare it
        total, count = len(data.train_dataset), len(self._reasons)
        if count > self.max_fraction * total:
            named = ", ".join(sorted(self._reasons)[:NAMED])
            raise DataError(
                f"{count} of {total} training images cannot be decoded, more than the "
                f"{100 * self.max_fraction:g} % that callbacks.bad_samples.max_fraction allows: {named}"
                f"{', ...' if count > NAMED else ''}. {self.path} lists them with the reasons. Mend the data set, or "
                "raise that number."
            )

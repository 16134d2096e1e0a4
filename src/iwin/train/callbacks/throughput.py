"""How fast training goes, and how much memory it takes: for the results of a run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

WARM_UP = 3  # batches of the process that are slower: allocations, compiling, the choice of kernels


class Throughput(Callback):
    """Counts the images of training over all ranks, and the time from batch to batch inside of epochs.

    Validation, checkpoints at the end of an epoch and the first batch of one do not count, nor what was trained before
    the last start of the run.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._images = 0
        self._seconds = 0.0
        self._seen = 0
        self._since: float | None = None

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._since = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self._clock()
        self._seen += 1
        if self._since is not None and self._seen > WARM_UP:
            self._images += len(batch.images) * trainer.world_size
            self._seconds += now - self._since
        self._since = now

    @property
    def images_per_s(self) -> float | None:
        """Of all ranks together; None before there is anything to tell."""
        return self._images / self._seconds if self._seconds else None


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Bytes that were in use at most so far, and of what: tensors on the CUDA device, or else all of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "cuda"
    # Not getrusage's ru_maxrss: that begins with what the process that started this one had.
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024, "process"

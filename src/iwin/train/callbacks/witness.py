"""What a run does, told line by line to a file that outlives it: the word of the run itself is not enough."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import lightning
from lightning.pytorch.callbacks import Callback

from iwin.batch import Batch


class Witness(Callback):
    """Adds to `path`, as they happen: `start U`, `batch U M HASH`, `done U`, `save U`, `end U`.

    U: an update, from 1; after `start` and `save`, the updates done. M: the micro-batch. HASH: of its images as the
    model gets them, augmented and mixed, of the targets and of which samples they are. Each line is one write to the
    system, so that a kill loses none that came before.

    kill_after: `iwin stress` sets it in a process that is to kill itself at the end of that update, before anything
        is saved there.
    """

    kill_after: ClassVar[int | None] = None

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._done = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._done = trainer.global_step
        self._tell(f"start {self._done}")

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        hashed = hashlib.blake2b(digest_size=12)
        for tensor in (batch.indices, batch.images, batch.targets):
            hashed.update(tensor.cpu().contiguous().numpy().data)
        self._tell(f"batch {trainer.global_step + 1} {batch.position.micro} {hashed.hexdigest()}")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._done:
            return
        self._done = trainer.global_step
        self._tell(f"done {self._done}")
        if self._done == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._tell(f"save {trainer.global_step}")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._tell(f"end {trainer.global_step}")

    def _tell(self, line: str) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)


class Begun(NamedTuple):
    """A start of a run that got as far as training.

    at: the updates that its checkpoint had done. done: the last one that it finished. saves: what it began to save.
    """

    at: int
    done: int
    saves: tuple[int, ...]


class Account(NamedTuple):
    """batches: the hash of each (update, micro-batch), of the last time it was made. differing: those that had
    another hash before."""

    begun: list[Begun]
    batches: dict[tuple[int, int], str]
    differing: set[tuple[int, int]]


def read_account(path: Path) -> Account:
    """What the witness of all the starts of a run told; empty where none got that far."""
    begun: list[Begun] = []
    batches: dict[tuple[int, int], str] = {}
    differing: set[tuple[int, int]] = set()
    for line in path.read_text().splitlines() if path.is_file() else []:
        what, update, *more = line.split()
        if what == "start":
            begun.append(Begun(int(update), int(update), ()))
        elif what == "done":
            begun[-1] = begun[-1]._replace(done=int(update))
        elif what == "save" and int(update) not in begun[-1].saves:
            begun[-1] = begun[-1]._replace(saves=(*begun[-1].saves, int(update)))
        elif what == "batch":
            place = int(update), int(more[0])
            if batches.setdefault(place, more[1]) != more[1]:
                differing.add(place)
            batches[place] = more[1]
    return Account(begun, batches, differing)

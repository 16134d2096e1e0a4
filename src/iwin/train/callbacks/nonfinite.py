"""Skipped updates are counted, their samples named, and a run that has too many in a row goes back or stops."""

from __future__ import annotations

import csv
import io
import math
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from iwin.batch import Batch
from iwin.errors import DataError, UserError, whole
from iwin.train.rollback import RollBack

COLUMNS = ["attempt", "update", "rank", "micro", "loss", "key"]
NAMED = 10  # samples in the error; the file has them all
# Updates after which a verdict is read that an accelerator still had to compute. A fixed number and not "once it
# is there": ranks have to learn of it at the same update, or one goes back while the others wait for it.
LAG = 4
Row = tuple[int, int, int, int, float, str]


class NonFiniteError(UserError):
    """Training met losses or gradients that are not finite again and again."""


def lag(verdict: Tensor) -> int:
    """Updates after which `verdict` is read: a CPU has it at once."""
    return LAG if verdict.is_cuda else 0


class Reading:
    """A number on its way from the device: taken now without waiting for it, read later."""

    def __init__(self, value: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._value = value
        if value.is_cuda:
            self._value = torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> bool:
        """Waits only where the device is further behind than this was taken ago."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._value)


class Part(NamedTuple):
    """One micro-batch of an update on this rank: its number, its samples (B,), and its loss, still on the device."""

    micro: int
    indices: Tensor
    loss: Tensor


class Update(NamedTuple):
    """number: as metrics.csv counts, from 1."""

    attempt: int
    number: int
    parts: list[Part]
    skipped: Reading


class NonFinite(Callback):
    """Watches the updates that the task's guard withholds (guard.py), which is safe without this.

    It logs `train/skipped`, the updates skipped so far on the way to the present weights, and writes
    `folder`/nonfinite.csv: a row for each sample of each skipped update, with the loss of its micro-batch, which
    tells the rank and the micro-batch where it began. Which of the samples was to blame cannot be known.

    After `in_a_row` skipped updates it raises RollBack, which starts again at the last checkpoint with another
    order; where the run has done that `max_roll_backs` times already, NonFiniteError, which stops it with a report.

    The average of the weights takes one more step towards the unchanged weights at a skipped update. That is as
    finite as they are; and to hold it back, an accelerator would have to be asked.

    Raises:
        ConfigError: a number that cannot be used.
    """

    def __init__(self, folder: Path, in_a_row: int, max_roll_backs: int) -> None:
        self.path = folder / "nonfinite.csv"
        self.in_a_row = whole("callbacks.nonfinite.in_a_row", in_a_row, 1)
        self.max_roll_backs = whole("callbacks.nonfinite.max_roll_backs", max_roll_backs, 0)
        self._attempt = self._done = 0
        self._skipped: int | Tensor = 0
        self._pending: deque[Update] = deque()
        self._parts: list[Part] = []
        self._streak: list[int] = []  # the updates skipped one after the other up to now
        self._named: list[str] = []  # their samples, those of a bad loss first

    @property
    def skipped(self) -> int:
        """The updates skipped on the way to the present weights; waits for the device."""
        return int(self._skipped)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Drop from the file what this run is about to do again."""
        data: Any = trainer
        attempt, self._done = int(data.datamodule.state_dict()["attempt"]), trainer.global_step
        if attempt != self._attempt:  # the checkpoint is from before going back
            self._attempt, self._streak = attempt, []
        if trainer.is_global_zero and self.path.is_file():
            kept = [row for row in read_nonfinite(self.path) if row[0] < attempt or row[1] <= self._done]
            beside = self.path.with_name(self.path.name + ".new")
            with beside.open("w", newline="") as file:
                csv.writer(file).writerows([COLUMNS, *kept])
            beside.replace(self.path)
        self._go_back_if_due()  # the verdicts may have been waiting in the checkpoint

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Take up a finished update, and judge the one that it is time for."""
        self._parts.append(Part(batch.position.micro, batch.indices, outputs["loss"]))
        if trainer.global_step == self._done:
            return
        self._done = trainer.global_step
        task: Any = pl_module
        skipped: Tensor = task.guard.skipped
        self._skipped = self._skipped + skipped.float()
        pl_module.log("train/skipped", self._skipped)
        self._pending.append(Update(batch.position.attempt, self._done, self._parts, Reading(skipped)))
        self._parts = []
        self._judge(trainer, lag(skipped))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave no update of the epoch unjudged; the results of the epoch are being read anyway."""
        self._judge(trainer, 0)

    def state_dict(self) -> dict[str, Any]:
        """What of the past decides the future. Saving waits for the device anyway."""
        streak = list(self._streak)
        for update in self._pending:
            if len(streak) >= self.in_a_row:
                break  # what comes after does not undo it
            streak = [*streak, update.number] if update.skipped.read() else []
        return {"attempt": self._attempt, "skipped": self.skipped, "streak": streak}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._attempt, self._skipped = int(state_dict["attempt"]), int(state_dict["skipped"])
        self._streak = [int(number) for number in state_dict["streak"]]

    def _judge(self, trainer: lightning.Trainer, leave: int) -> None:
        """Look at the finished updates, but for the last `leave`. The same on all ranks."""
        while len(self._pending) > leave:
            update = self._pending.popleft()
            if not update.skipped.read():
                self._streak, self._named = [], []
                continue
            self._streak.append(update.number)
            self._note(trainer, update)
            self._go_back_if_due()

    def _note(self, trainer: lightning.Trainer, update: Update) -> None:
        """Say and write which update was skipped, with the samples of all ranks."""
        data: Any = trainer
        dataset, accumulated = data.datamodule.train_dataset, trainer.accumulate_grad_batches
        rows: list[Row] = [
            # Lightning divides the loss by the micro-batches of an update.
            (update.attempt, update.number, trainer.global_rank, part.micro, float(part.loss) * accumulated, key)
            for part in update.parts
            for key in map(dataset.key, part.indices.tolist())
        ]
        if trainer.world_size > 1:
            all_rows: list[list[Row]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(all_rows, rows)
            rows = [row for one in all_rows for row in one]
        self._named += [row[-1] for row in sorted(rows, key=lambda row: math.isfinite(row[4]))]
        if trainer.is_global_zero:
            new = not self.path.is_file()
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerows([*([COLUMNS] if new else []), *rows])
            print(f"update {update.number}: loss or gradient not finite, skipped; samples in {self.path}", flush=True)

    def _go_back_if_due(self) -> None:
        if len(self._streak) < self.in_a_row:
            return
        if self._attempt < self.max_roll_backs:
            raise RollBack(self._attempt, self._streak)
        named, more = ", ".join(self._named[:NAMED]), ", ..." if len(self._named) > NAMED else ""
        raise NonFiniteError(
            f"updates {', '.join(map(str, self._streak))} had a loss or gradient that is not finite, and the run has "
            f"gone back to its last checkpoint {self._attempt} times, which is all that "
            f"callbacks.nonfinite.max_roll_backs={self.max_roll_backs} allows. No such update has reached the weights. "
            f"Their samples begin with {named}{more}; {self.path} lists those of every skipped update. Lower "
            "optimizer.lr, warm up longer (schedule.warmup), clip lower (trainer.gradient_clip_val), or look at these "
            "samples."
        )


def read_nonfinite(path: Path) -> list[Row]:
    """The rows of a nonfinite.csv, without a last one that a kill cut short. DataError where it is damaged."""
    text = path.read_bytes()
    whole_lines = text[: text.rfind(b"\n") + 1].decode(errors="replace")
    lines = csv.reader(io.StringIO(whole_lines, newline=""))
    next(lines, None)
    try:
        return [(int(a), int(u), int(r), int(m), float(loss), key) for a, u, r, m, loss, key in lines]
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}): it names the samples of skipped updates; move it away"
        ) from error

"""How a run shows itself while it runs: a bar in a terminal, plain lines anywhere else.

Nothing is read from the device between two refreshes, so that showing progress costs no synchronisation.
"""

from __future__ import annotations

import datetime
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from iwin.batch import Batch

TERMINAL_EVERY_S = 0.5  # a bar may move more often than lines may come
WINDOW_S = 30.0


class Pace:
    """Speed over the last `window_s` seconds of work. `pause` and `resume` keep other work out of it.

    clock: seconds, from any origin.
    """

    def __init__(self, clock: Callable[[], float], window_s: float = WINDOW_S) -> None:
        self._clock = clock
        self._window_s = window_s
        self._paused_s = 0.0
        self._paused_at: float | None = None
        self._marks: deque[tuple[float, int, int]] = deque()  # seconds of work, images and steps so far

    def add(self, images: int, steps: int) -> None:
        """Note that `images` more images are done, and `steps` more steps (updates, or batches).

        The clock starts at the end of the first step: that one pays for starting up and compiling.
        """
        now = self._clock() - self._paused_s
        _, all_images, all_steps = self._marks[-1] if self._marks else (now, -images, -steps)
        self._marks.append((now, all_images + images, all_steps + steps))
        while len(self._marks) > 2 and self._marks[1][0] <= now - self._window_s:
            self._marks.popleft()

    def pause(self) -> None:
        """Stop the clock, for a validation."""
        self._paused_at = self._clock()

    def resume(self) -> None:
        """Let the clock run on."""
        if self._paused_at is not None:
            self._paused_s += self._clock() - self._paused_at
            self._paused_at = None

    @property
    def images_per_s(self) -> float | None:
        """None until it can be told."""
        (start, images, _), (end, all_images, _) = self._ends()
        return (all_images - images) / (end - start) if end > start else None

    def seconds_for(self, steps: float) -> float | None:
        """How long `steps` more steps take, with the pauses that such steps have brought so far; None if unknown."""
        (start, _, first), (end, _, last) = self._ends()
        if last <= first or not math.isfinite(steps):
            return None
        return steps * ((end - start) / (last - first) + self._paused_s / max(self._marks[-1][2], 1))

    def _ends(self) -> tuple[tuple[float, int, int], tuple[float, int, int]]:
        return (self._marks[0], self._marks[-1]) if self._marks else ((0.0, 0, 0), (0.0, 0, 0))


class TwoLineBars(Bars):
    """Bars, and below them a line of numbers, so that all fits a terminal of 80 columns."""

    numbers = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """What rich draws at a refresh."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.numbers, no_wrap=True, overflow="ellipsis")


class Progress(ProgressBar):
    """Shows epoch, updates, loss, learning rate, accuracy, images a second (all ranks) and the time left.

    Reads the metrics "train/loss", "lr", "val/loss", "val/top1" and "val/top5" (fractions 0..1), as far as the
    task logs them, and the size of `batch.images`. Only global rank 0 shows anything. A Trainer.validate has
    a bar and a result of its own.

    every_s: where the output is no terminal, the least seconds between two lines (a validation's result
        always has its line).
    clock: seconds, from any origin.
    console: where to write; standard output unless given.
    """

    def __init__(
        self, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic, console: Console | None = None
    ) -> None:
        super().__init__()
        self.every_s = every_s
        self.best_top1 = -math.inf
        self._clock = clock
        self._console = console or Console()
        self._enabled = True
        self._bars: TwoLineBars | None = None  # while a terminal's bar stands
        self._shown_at = -math.inf
        self._train = self._val = Pace(clock)
        self._updates = self._shown_update = 0
        self._epoch = self._last_top1 = ""

    def enable(self) -> None:
        """Show progress, which is what it does anyway."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing: Lightning asks for this on all ranks but the first."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line without breaking the bar; rich moves what a print writes above it."""
        if self._enabled:
            print(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """The best accuracy goes into checkpoints, so that a resumed run marks the same validations."""
        return {"best_top1": self.best_top1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best accuracy of the run that is resumed."""
        self.best_top1 = state_dict["best_top1"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar of the whole run."""
        self._train, self._updates = Pace(self._clock), trainer.global_step
        self._open("training", _updates_in_all(trainer), trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count, and show where it is time to."""
        done = trainer.global_step
        self._train.add(batch.images.shape[0] * trainer.world_size, done - self._updates)
        self._updates, self._epoch = done, _epoch(trainer)
        if self._due():
            self._show_training(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the training clock, and open the validation's own bar."""
        if trainer.sanity_checking:
            return
        self._train.pause()
        self._val = Pace(self._clock)
        self._open("validation", _val_batches(trainer), 0)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count; in a fit, plain lines are left to the training and the result."""
        if trainer.sanity_checking:
            return
        self._val.add(batch.images.shape[0] * trainer.world_size, 1)
        if (self._bars is not None or not _fitting(trainer)) and self._due():
            total = _val_batches(trainer)
            place = f"validation {batch_idx + 1}" + (f"/{total:.0f}" if math.isfinite(total) else "")
            self._show(place, [], self._val, batch_idx + 1, total)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The result, as a line that stays."""
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        parts = [f"{_epoch(trainer)}  val" if _fitting(trainer) else "validation"]
        if "val/top1" in metrics:
            top1 = float(metrics["val/top1"])
            parts[0] += f" top-1 {100 * top1:.2f} %"
            self._last_top1 = f"top-1 {100 * top1:.2f} %"
        if "val/top5" in metrics:
            parts.append(f"top-5 {100 * float(metrics['val/top5']):.2f} %")
        if "val/loss" in metrics:
            parts.append(f"loss {float(metrics['val/loss']):.3f}")
        if _fitting(trainer) and "val/top1" in metrics and top1 > self.best_top1:
            self.best_top1 = top1
            parts.append("best")
        self._line("  ".join(parts))
        self._train.resume()
        if self._bars is not None:
            self._bars.remove_task(self._bars.task_ids[-1])
        if not _fitting(trainer):
            self._close()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the last update, and leave the bar where it stands."""
        if self._bars is not None or self._shown_update < self._updates:
            self._show_training(trainer)
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the terminal back before a traceback is written."""
        self._close()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._close()

    def _show_training(self, trainer: L.Trainer) -> None:
        metrics, total = trainer.callback_metrics, _updates_in_all(trainer)
        place = f"{self._epoch}  update {self._updates}" + (f"/{total:.0f}" if math.isfinite(total) else "")
        numbers = [f"loss {float(metrics['train/loss']):.3f}"] if "train/loss" in metrics else []
        numbers += [f"lr {float(metrics['lr']):.1e}"] if "lr" in metrics else []
        if self._bars is not None and self._last_top1:
            numbers.append(self._last_top1)
        self._shown_update = self._updates
        self._show(place, numbers, self._train, self._updates, total)

    def _show(self, place: str, numbers: list[str], pace: Pace, done: int, total: float) -> None:
        """One refresh of the bar that was opened last, or one line."""
        if not self._enabled:
            return
        speed, left = pace.images_per_s, pace.seconds_for(total - done)
        numbers = numbers + ([f"{speed:,.0f} images/s"] if speed is not None else [])
        time_left = f"{datetime.timedelta(seconds=round(left))} left" if left is not None else ""
        self._shown_at = self._clock()
        if self._bars is None:
            self._line("  ".join(part for part in (place, *numbers, time_left) if part))
            return
        self._bars.numbers = "  ".join(numbers)
        self._bars.update(self._bars.task_ids[-1], completed=done, description=place, left=time_left)
        self._bars.refresh()

    def _due(self) -> bool:
        every_s = TERMINAL_EVERY_S if self._bars is not None else self.every_s
        return self._enabled and self._clock() - self._shown_at >= every_s

    def _open(self, description: str, total: float, done: int) -> None:
        """In a terminal, one more bar; the first one takes the terminal's last lines."""
        if not self._enabled or not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        if self._bars is None:
            columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[left]}")
            self._bars = TwoLineBars(*columns, console=self._console, auto_refresh=False, expand=True)
            self._bars.start()
        self._bars.add_task(description, total=total if math.isfinite(total) else None, completed=done, left="")
        self._bars.refresh()

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _line(self, text: str) -> None:
        """A line that stays; above the bar where there is one."""
        if self._bars is not None:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        elif self._enabled:
            print(text, file=self._console.file, flush=True)


def _fitting(trainer: L.Trainer) -> bool:
    return trainer.state.fn == "fit"


def _epoch(trainer: L.Trainer) -> str:
    """The running epoch for people, from 1."""
    end = f"/{trainer.max_epochs}" if trainer.max_epochs is not None and trainer.max_epochs >= 0 else ""
    return f"epoch {trainer.current_epoch + 1}{end}"


def _updates_in_all(trainer: L.Trainer) -> float:
    """Updates of the whole run; infinite where neither the data nor the Trainer has an end."""
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else math.inf
    batches = float(trainer.num_training_batches)
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else math.inf
    return min(per_epoch * epochs, trainer.max_steps if trainer.max_steps >= 0 else math.inf)


def _val_batches(trainer: L.Trainer) -> float:
    """Batches of one validation on one rank."""
    return float(sum(trainer.num_val_batches))

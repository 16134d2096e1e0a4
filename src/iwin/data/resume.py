"""Where training stands, in updates, so that a run can go on from there; and Lightning's counters to match.

The position is counted in updates and not in batches: the weights of a checkpoint are those after an update,
gradients that were being accumulated are lost with the process, and the number of batches in an update changes
with the number of devices.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import lightning.pytorch as pl

from iwin.batch import Position
from iwin.errors import ConfigError


class Standing(NamedTuple):
    """updates: those finished in `epoch`. attempt: 0, and one more after each roll-back."""

    attempt: int
    epoch: int
    updates: int


class StandingTracker:
    """Keeps the standing of a run: fed with each batch handed to the task, asked when a checkpoint is saved."""

    def __init__(self) -> None:
        self._base = Standing(0, 0, 0)
        self._handed: tuple[Position, int] | None = None

    def start(self, standing: Standing) -> None:
        """Stand at `standing` until a batch is handed over."""
        self._base, self._handed = standing, None

    def hand(self, position: Position, global_step: int) -> None:
        """A batch of training goes to the task, after `global_step` updates of the whole run."""
        self._handed = (position, global_step)

    def now(self, global_step: int) -> Standing:
        """The standing after `global_step` updates of the whole run.

        The update of the batch handed over last is finished if the count has moved since. That holds also where
        a checkpoint is saved between two batches of an update, or in the middle of one after an exception.
        """
        if self._handed is None:
            return self._base
        position, before = self._handed
        return Standing(position.attempt, position.epoch, position.step + int(global_step > before))


def check_same_order(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ConfigError where the middle of an epoch cannot be found again: another seed, data set or global batch.

    A checkpoint that does not tell the repetitions is from before there were any.
    """
    saved = {"repeats": 1} | saved
    for key, said in (
        ("seed", "the seed"),
        ("samples", "the number of training samples"),
        ("shuffle", "the shuffle (data.shuffle, data.open_shards)"),
        ("repeats", "how often a sample is repeated (data.repeats)"),
        ("global_batch", "the global batch (data.batch_size x devices x accumulation)"),
    ):
        if saved[key] != now[key]:
            raise ConfigError(
                f"the checkpoint stands inside an epoch, at update {saved['updates']}, and {said} was {saved[key]} "
                f"and is {now[key]}: the samples already seen would be others. Set it back to {saved[key]}, or "
                "resume from a checkpoint at the end of an epoch."
            )


def align_batches(trainer: pl.Trainer, standing: Standing, updates_per_epoch: int) -> None:
    """Make Lightning's count of the batches done in a restored epoch agree with `standing`.

    It differs where the checkpoint was saved between two batches of an update, which is then made anew, and
    where the number of devices changed: without this, updates would end after the wrong batches.
    """
    loop: Any = trainer.fit_loop  # its counters are declared without the fields that they have
    epochs = loop.epoch_progress.current
    if epochs.ready == epochs.processed:
        return  # saved between two epochs: the next one starts from its begin
    # Saved after an epoch's last update, the standing is in the next epoch, and Lightning has yet to close this one.
    updates = standing.updates if epochs.processed == standing.epoch else updates_per_epoch
    progress = loop.epoch_loop.batch_progress
    missing = updates * trainer.accumulate_grad_batches - progress.current.processed
    for counter in (progress.current, progress.total):
        counter.ready += missing
        counter.started += missing
        counter.processed += missing
        counter.completed += missing
    # Lightning cannot know that our sampler starts at the right update, and warns that it may not.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")

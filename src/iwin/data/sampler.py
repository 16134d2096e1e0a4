"""Which samples make which batch: a function of (seed, attempt, epoch) and position, with nothing to remember.

A global batch is the samples of one optimizer update. It is a slice of the epoch's order, so the samples of an
update depend neither on the number of processes nor on gradient accumulation, and training resumes anywhere by
starting to count there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from iwin.batch import Position
from iwin.data.order import Shuffle
from iwin.errors import ConfigError, whole


class Ticket(NamedTuple):
    """What a batch sampler hands to a worker: which samples, and where in the run they stand.

    indices: (B,) integers. repetitions: (B,) integers, which of its repetitions in the epoch each is, from 0.
    """

    position: Position
    indices: np.ndarray
    repetitions: np.ndarray


def updates_per_epoch(length: int, batch_size: int, world: int, accumulation: int) -> int:
    """The number of whole global batches (batch_size * world * accumulation) in `length` samples.

    Raises:
        ConfigError: a batch size below 1, or not even one global batch.
    """
    whole("data.batch_size", batch_size, 1)
    update = batch_size * world * accumulation
    if update > length:
        largest = length // (world * accumulation)
        advice = f"Lower data.batch_size to {largest} or less, or use" if largest else "Use"
        raise ConfigError(
            f"a global batch of {update} images (data.batch_size {batch_size} x {world} processes x {accumulation} "
            f"accumulated) is more than the {length} of the training set. {advice} fewer devices or less accumulation."
        )
    return length // update


class TrainSampler:
    """The batch sampler of training for one process.

    The order that `shuffle` gives an epoch is cut into global batches of batch_size * world * accumulation; each is
    cut into `world` runs, one a rank, and each of these into `accumulation` micro-batches of `batch_size`. What
    remains at the end of the order, less than a global batch, is not visited in that epoch.

    repeats R: each sample stands R times in the order, one after the other, which is cut as before; the epoch keeps
    its number of updates, and visits the first 1/R of the samples (repeated augmentation: Hoffer et al., arXiv
    1901.09335). Only where R does not divide the global batch do the repetitions of a sample fall into two updates.
    Within an update those that come for the first time stand before those that come again, so that a rank mixes
    images of different samples: where R divides the update, and it has R micro-batches or more on all ranks, no
    two repetitions are in the same. timm's RepeatAugSampler has the same samples in an update, and deals them out
    to the ranks in turn.

    Yields a Ticket for each micro-batch. `len` is the micro-batches of a whole epoch, also where the first one
    starts in the middle (at `start_step`, an update): Lightning counts batches from the epoch's begin.

    reshuffle false visits the samples of epoch 0 in every epoch, to learn a few batches by heart.
    """

    def __init__(
        self,
        shuffle: Shuffle,
        *,
        batch_size: int,
        world: int,
        rank: int,
        accumulation: int,
        seed: int,
        attempt: int = 0,
        epoch: int = 0,
        start_step: int = 0,
        reshuffle: bool = True,
        repeats: int = 1,
    ) -> None:
        self.updates = updates_per_epoch(len(shuffle), batch_size, world, accumulation)
        self.shuffle = shuffle
        self.batch_size = batch_size
        self.world = world
        self.rank = rank
        self.accumulation = accumulation
        self.seed = seed
        self.attempt = attempt
        self.epoch = epoch
        self.start_step = start_step
        self.reshuffle = reshuffle
        self.repeats = whole("data.repeats", repeats, 1)

    @property
    def sampler(self) -> TrainSampler:
        """Itself: Lightning calls `set_epoch` on `loader.batch_sampler.sampler`, and on nothing else of ours."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the begin of `epoch`, unless the sampler is already in it (it may stand at a start_step)."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.start_step = 0

    def __len__(self) -> int:
        return self.updates * self.accumulation

    def __iter__(self) -> Iterator[Ticket]:
        # The epoch is taken now and not at the first batch: Lightning makes the iterator of a resumed run
        # before it calls set_epoch, and a generator would look only when it is first asked.
        return self._tickets(self.attempt, self.epoch, self.start_step)

    def _tickets(self, attempt: int, epoch: int, start_step: int) -> Iterator[Ticket]:
        visited = self.shuffle.order(self.seed, attempt, epoch if self.reshuffle else 0)
        # This rank's share alone, so that the order of the whole is not kept through the epoch.
        batches = np.empty((self.updates, self.accumulation, self.batch_size), visited.dtype)
        for step in range(start_step, self.updates):
            batches[step] = visited[self._places(step) // self.repeats]
        del visited
        for step in range(start_step, self.updates):
            repetitions = self._places(step) % self.repeats
            for micro in range(self.accumulation):
                yield Ticket(Position(attempt, epoch, step, micro), batches[step, micro], repetitions[micro])

    def _places(self, step: int) -> np.ndarray:
        """Where in the order, with its repetitions, the samples of this rank stand: (accumulation, batch_size)."""
        shape = (self.world, self.accumulation, self.batch_size)
        update = math.prod(shape)
        places = np.arange(step * update, (step + 1) * update)
        again = np.argsort(places % self.repeats, kind="stable")
        return places[again].reshape(shape)[self.rank]


class EvalSampler:
    """The batch sampler of evaluation for one process: every sample exactly once over all ranks, none repeated.

    Each rank gets one contiguous run of the data set; runs differ by at most one sample, so the numbers of
    batches may differ, and metrics must be gathered at the end and not batch by batch. The last batch of a rank
    may be smaller.
    """

    def __init__(self, length: int, *, batch_size: int, world: int, rank: int) -> None:
        whole("data.eval_batch_size", batch_size, 1)
        self.batch_size = batch_size
        self.start = length * rank // world
        self.stop = length * (rank + 1) // world

    def __len__(self) -> int:
        return -(-(self.stop - self.start) // self.batch_size)

    def __iter__(self) -> Iterator[Ticket]:
        for step, start in enumerate(range(self.start, self.stop, self.batch_size)):
            stop = min(start + self.batch_size, self.stop)
            yield Ticket(Position(0, 0, step, 0), np.arange(start, stop), np.zeros(stop - start, np.int64))

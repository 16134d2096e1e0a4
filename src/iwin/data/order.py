"""The orders in which an epoch may visit the samples, each a function of (seed, attempt, epoch) alone."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from iwin.runtime import position_seed


def order(seed: int, attempt: int, epoch: int, length: int) -> np.ndarray:
    """A permutation of `length` things, (length,) int32: half of what int64 takes, for up to 2**31 of them."""
    return _permuted(_generator(seed, attempt, epoch), np.arange(length, dtype=np.int32))


def _generator(seed: int, attempt: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(position_seed(seed, "order", attempt, epoch)))


def _permuted(generator: np.random.Generator, values: np.ndarray) -> np.ndarray:
    generator.shuffle(values)
    return values


class Shuffle(Protocol):
    """An order for every epoch."""

    def __len__(self) -> int:
        """The number of samples."""

    def order(self, seed: int, attempt: int, epoch: int) -> np.ndarray:
        """The permutation of all samples, (N,) int32, in which `epoch` visits them."""

    def describe(self) -> str:
        """What besides the seed and the samples sets the order, in a few words."""


class GlobalShuffle:
    """Any of `length` samples may come after any other: for storage that reads anywhere equally fast."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def order(self, seed: int, attempt: int, epoch: int) -> np.ndarray:
        """See Shuffle."""
        return order(seed, attempt, epoch, self.length)

    def describe(self) -> str:
        """See Shuffle."""
        return "global"


class BlockShuffle:
    """Shards in a permuted order, `open_shards` of them together as a block, the samples of a block permuted.

    What is being read at a time are the shards of one block (or of two, where it ends), each read once an epoch,
    whole: for disks that turn, network file systems, and shards that are fetched. With open_shards the number of
    shards it is a global shuffle.

    ends: (S,) the position just past each shard's samples in the data set.
    """

    def __init__(self, ends: np.ndarray, open_shards: int) -> None:
        self.ends = ends
        self.open_shards = open_shards

    def __len__(self) -> int:
        return int(self.ends[-1])

    def blocks(self, seed: int, attempt: int, epoch: int) -> list[np.ndarray]:
        """The shards of each block, by number, in the order in which `epoch` visits them."""
        shards = order(seed, attempt, epoch, len(self.ends))
        return [shards[start : start + self.open_shards] for start in range(0, len(shards), self.open_shards)]

    def order(self, seed: int, attempt: int, epoch: int) -> np.ndarray:
        """See Shuffle."""
        starts = np.concatenate([[0], self.ends[:-1]])
        generator = _generator(seed, attempt, epoch)
        parts = [
            _permuted(
                generator,
                np.concatenate([np.arange(starts[shard], self.ends[shard], dtype=np.int32) for shard in block]),
            )
            for block in self.blocks(seed, attempt, epoch)
        ]
        return np.concatenate(parts)

    def describe(self) -> str:
        """See Shuffle."""
        return f"blocks of {self.open_shards} shards"


def neighbour_distance(visited: np.ndarray) -> float:
    """How far apart in the data set two samples lie that are visited one after the other, as a share of its length.

    The mean over an order, (N,) int. A perfect shuffle has 1/3; no shuffle at all 1/N.
    """
    return float(np.abs(np.diff(visited.astype(np.int64))).mean() / len(visited))

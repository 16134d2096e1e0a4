"""Shards at a URL as a data set: read from the node's cache, and fetched ahead of the block that training is in."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import numpy as np

from iwin.batch import Position
from iwin.data.cache import ShardCache
from iwin.data.dataset import ImageDataset
from iwin.data.index import ShardIndex
from iwin.data.order import BlockShuffle, Shuffle
from iwin.data.read_ahead import ReadAhead
from iwin.data.shards import ShardDataset
from iwin.errors import ConfigError

GIGABYTE = 1_000_000_000


class FetchedShards:
    """A place of shards (see shards.ShardPlace) at a URL. open_files: of those that a process keeps open."""

    def __init__(self, cache: ShardCache, open_files: int) -> None:
        self.cache = cache
        # Few: a shard that was removed from the cache takes its room on the disk for as long as it is open.
        self.open_files = open_files

    def __str__(self) -> str:
        return self.cache.url

    @property
    def manifest(self) -> dict[str, Any]:
        """As read_manifest returns it."""
        return self.cache.manifest

    def indexes(self, pattern: str) -> list[ShardIndex]:
        """Of the shards whose names match the glob `pattern`, by name, fetched where they are not here."""
        names = sorted(name for name in self.cache.shards if fnmatchcase(name, pattern))
        self.cache.fetch_indexes(names)
        return [ShardIndex(self.cache.root / name, fetched=False) for name in names]

    def open(self, name: str) -> int:
        """A descriptor of the shard `name`, once it is here."""
        return self.cache.open(name)


def feed(dataset: ImageDataset, shuffle: Shuffle, *, seed: int, update: int, repeats: int) -> BlockFeed | None:
    """What fetches the shards of a training set at a URL ahead; None where any shard may be needed at any time.

    It starts with the first batch, after the data workers were forked. For the rest see BlockFeed. Raises ConfigError
    where the cache cannot hold what the shuffle needs.
    """
    assert isinstance(dataset, ShardDataset)
    assert isinstance(dataset.place, FetchedShards)
    cache = dataset.place.cache
    if isinstance(shuffle, BlockShuffle):
        names = [shard.tar.name for shard in dataset.shards]
        return BlockFeed(cache, shuffle, names, seed=seed, update=update, repeats=repeats)
    every = sum(shard.tar_size for shard in dataset.shards)
    if every > cache.limit_bytes:
        raise ConfigError(
            f"data.shuffle is global, which may need any shard at any time, and the shards of {dataset.place} are "
            f"{every / GIGABYTE:.1f} GB, more than data.cache_gb={cache.limit_bytes / GIGABYTE:g}: set "
            "data.shuffle=block, or allow all of them."
        )
    return None


class BlockFeed:
    """Has the shards of the block that training is in, and of the next, fetched before they are asked for.

    names: of the shards, as `shuffle` numbers them. seed: of the run. update: images of a global batch. repeats: how
        often each sample stands in an epoch, which then ends within the blocks of the first 1 / repeats of them.

    Raises ConfigError where two blocks are more than the cache may hold.
    """

    def __init__(
        self, cache: ShardCache, shuffle: BlockShuffle, names: list[str], *, seed: int, update: int, repeats: int = 1
    ) -> None:
        self.shuffle = shuffle
        self.names = names
        self.seed = seed
        self.update = update
        self.repeats = repeats
        self._ahead = ReadAhead(cache, 2 * min(shuffle.open_shards, len(names)) - 1)
        self._told: tuple[int, int] | None = None  # attempt and epoch
        self._sample_ends = np.empty(0, np.int64)  # of each block of that epoch
        self._shard_starts = np.empty(0, np.int64)

    def at(self, position: Position) -> None:
        """Training is at `position`. Raises DataError where fetching failed since the last call."""
        epoch = position.attempt, position.epoch
        if self._told != epoch:
            self._begin(*epoch)
        sample = position.step * self.update // self.repeats
        block = int(np.searchsorted(self._sample_ends, sample, side="right"))
        first = int(self._shard_starts[min(block, len(self._shard_starts) - 1)])
        if self._told != epoch:
            self._told = epoch
            self._ahead.want(self._order, first)
        else:
            self._ahead.at(first)

    def _begin(self, attempt: int, epoch: int) -> None:
        blocks, self._sample_ends = self._visited(attempt, epoch)
        self._shard_starts = np.cumsum([0, *(len(block) for block in blocks)])[:-1]
        following, _ = self._visited(attempt, epoch + 1)
        self._order = [self.names[shard] for shard in chain.from_iterable([*blocks, *following])]

    def _visited(self, attempt: int, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The blocks that `epoch` visits, and the number of samples up to the end of each."""
        sizes = np.diff(self.shuffle.ends, prepend=0)
        blocks = self.shuffle.blocks(self.seed, attempt, epoch)
        ends = np.cumsum([sizes[block].sum() for block in blocks])
        count = int(np.searchsorted(ends, -(-len(self.shuffle) // self.repeats))) + 1
        return blocks[:count], ends[:count]

    def close(self) -> None:
        """Stop fetching."""
        self._ahead.close()

"""The keys of conf/data that set which samples training visits, and when: checked, and put to use."""

from __future__ import annotations

from typing import Any

from iwin.data.dataset import ImageDataset
from iwin.data.order import BlockShuffle, GlobalShuffle, Shuffle
from iwin.data.shards import ShardDataset
from iwin.errors import ConfigError, near_names, whole

SHUFFLES = ("global", "block")


class Visits:
    """shuffle: "global", or "block" with `open_shards` shards in a block; see order.py. repeats: see TrainSampler.

    format: of the data set; seed: of the run.

    Raises:
        ConfigError: a value that cannot be used, or a block shuffle of what are no shards.
    """

    def __init__(self, *, shuffle: str, open_shards: int, repeats: int, format: str, seed: int) -> None:
        if shuffle not in SHUFFLES:
            raise ConfigError(f"data.shuffle is {shuffle!r}: {near_names(shuffle, SHUFFLES)}")
        if shuffle == "block" and format != "shards":
            raise ConfigError(f"data.shuffle is block, which is for shards, and data.format is {format}: use global.")
        self.by_blocks = shuffle == "block"
        self.open_shards = whole("data.open_shards", open_shards, 1)
        self.repeats = whole("data.repeats", repeats, 1)
        self.seed = seed

    def shuffle(self, dataset: ImageDataset) -> Shuffle:
        """The orders of `dataset`."""
        if self.by_blocks and isinstance(dataset, ShardDataset):
            return BlockShuffle(dataset.shard_ends, self.open_shards)
        return GlobalShuffle(len(dataset))

    def facts(self, shuffle: Shuffle, global_batch: int) -> dict[str, Any]:
        """What, besides the position, the samples of an update of `global_batch` images depend on."""
        return {
            "seed": self.seed,
            "samples": len(shuffle),
            "shuffle": shuffle.describe(),
            "repeats": self.repeats,
            "global_batch": global_batch,
        }

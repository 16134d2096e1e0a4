"""Which image goes into which shard: decided before anything is written, from the names, sizes and the seed alone.

So shards can be written side by side and in any order, and one that was written before is known again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np

from iwin.data.folder import extension_of
from iwin.data.forked import forked
from iwin.data.shrink import Shrink
from iwin.data.writer import Sample, ShardLimit, safe_key, sample_bytes
from iwin.errors import DataError
from iwin.runtime import position_seed

SAMPLED = 512  # images a split: their mean size is right within some 3 % where sizes scatter by 60 %
SAMPLED_AT_ONCE = 16


class LabelledImages(Protocol):
    """N images with labels, wherever they are kept."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32."""

    def name(self, index: int) -> str:
        """The file name of an image; it may have folders."""

    def read(self, index: int) -> bytes:
        """The encoded bytes of an image; DataError where they cannot be read."""


class PlannedShard(NamedTuple):
    """One shard: the images at the places `start` to `stop` (not included) of its split's order."""

    split: str
    name: str
    start: int
    stop: int


class SplitPlan(NamedTuple):
    """One split, as it is written.

    images: N of them, as their source has them. sizes: (N,) int64, their bytes there. order: (N,) int64, the image
    at each place. ends: (S,) int64, the place just past each shard.
    """

    split: str
    images: LabelledImages
    sizes: np.ndarray
    order: np.ndarray
    ends: np.ndarray

    def shards(self) -> list[PlannedShard]:
        """The shards in their order, `<split>-00000.tar` and so on."""
        ends = self.ends.tolist()
        spans = zip([0, *ends[:-1]], ends, strict=True)
        return [
            PlannedShard(self.split, f"{self.split}-{number:05d}.tar", start, stop)
            for number, (start, stop) in enumerate(spans)
        ]

    def key(self, place: int) -> str:
        """The key of the image at `place`: the place, and the name of its file."""
        name = PurePosixPath(self.images.name(int(self.order[place])))
        return safe_key(f"{place:08d}-{name.stem}")

    def samples(self, shard: PlannedShard, shrink: Shrink | None) -> Iterator[Sample]:
        """What `shard` holds, read from the source. Raises DataError for an image that cannot be used."""
        for place in range(shard.start, shard.stop):
            index = int(self.order[place])
            name, data = self.images.name(index), self.images.read(index)
            if shrink is not None:
                data = shrink(data, name)
            yield Sample(self.key(place), data, extension_of(name), int(self.images.labels[index]))

    def source_hash(self) -> str:
        """SHA-256 of the names, sizes and labels of the images; of their contents no more than that."""
        digest = hashlib.sha256()
        for index in range(len(self.sizes)):
            digest.update(self.images.name(index).encode("utf-8", "surrogateescape") + b"\0")
        digest.update(self.sizes.astype("<i8").tobytes())
        digest.update(self.images.labels.astype("<i4").tobytes())
        return digest.hexdigest()


def plan_split(
    split: str,
    images: LabelledImages,
    sizes: np.ndarray,
    *,
    seed: int,
    limit: ShardLimit,
    shrink: Shrink | None,
    jobs: int,
) -> SplitPlan:
    """Put the images of a split into an order that is a function of the seed, and cut it into shards.

    sizes: (N,) bytes of the images in their source. With `shrink`, what an image will have is not known: the mean
    over the first images of the order stands for all; `jobs` processes take it. The plan is the same for any number.

    Raises:
        ConfigError: a limit that cannot be.
        DataError: no images, or one of those looked at cannot be read or decoded.
    """
    limit.check()
    if not len(sizes):
        raise DataError(f"split {split!r} has no images to write.")
    generator = np.random.Generator(np.random.PCG64(position_seed(seed, "shards")))
    order = generator.permutation(len(sizes))
    if limit.samples is not None:
        ends = ends_by_count(len(order), limit.samples)
    else:
        assert limit.size is not None
        if shrink is None:
            stored = sample_bytes(sizes[order])
        else:
            stored = np.full(len(order), _mean_bytes(images, order[:SAMPLED], shrink, jobs))
        ends = ends_by_bytes(stored, limit.size)
    return SplitPlan(split, images, sizes, order, ends)


def ends_by_count(count: int, per_shard: int) -> np.ndarray:
    """(S,) int64: the place just past each shard of `per_shard` samples."""
    return np.minimum(np.arange(per_shard, count + per_shard, per_shard), count)


def ends_by_bytes(stored: np.ndarray, limit: int) -> np.ndarray:
    """(S,) int64: the place just past each shard, which is closed once it holds `limit` bytes.

    stored: (N,) what each sample takes in its shard.
    """
    held = np.cumsum(stored, dtype=np.int64)
    ends: list[int] = []
    while not ends or ends[-1] < len(held):
        before = int(held[ends[-1] - 1]) if ends else 0
        ends.append(min(int(np.searchsorted(held, before + limit)) + 1, len(held)))
    return np.array(ends, dtype=np.int64)


def _mean_bytes(images: LabelledImages, indices: np.ndarray, shrink: Shrink, jobs: int) -> int:
    """What a sample takes in its shard, in bytes: the mean over these images, each made smaller."""

    def total(some: np.ndarray) -> int:
        stored = [len(shrink(images.read(index), images.name(index))) for index in some.tolist()]
        return int(sample_bytes(np.array(stored)).sum())

    parts = [indices[start : start + SAMPLED_AT_ONCE] for start in range(0, len(indices), SAMPLED_AT_ONCE)]
    with forked(total, parts, jobs) as totals:
        return round(sum(totals) / len(indices))

"""A map-style data set over indexed tar shards: one positioned read a sample, in any order."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from iwin.data.dataset import ImageDataset, Transform
from iwin.data.index import ShardIndex
from iwin.data.manifest import UNFINISHED, read_manifest
from iwin.errors import DataError

OPEN_FILES = 256
READ_AT_ONCE = 2**17  # bytes; what Linux reads ahead by default


class ShardPlace(Protocol):
    """Where shards are: a folder, or a URL whose shards come into a folder. open_files: to keep open in a process."""

    open_files: int

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What the manifest there tells, None where there is none."""

    def indexes(self, pattern: str) -> list[ShardIndex]:
        """Of the shards whose names match the glob `pattern`, by name. DataError where one is damaged."""

    def open(self, name: str) -> int:
        """A descriptor to read the shard `name` from."""


class ShardFolder:
    """A folder of shards. DataError where they are those of a writing that was stopped.

    whole: the system is asked to read a shard from its begin to its end once it is opened, for a block shuffle, which
        soon needs all of it. Without it, reading here and there in the shard would be as slow as anywhere else.
    """

    open_files = OPEN_FILES

    def __init__(self, root: Path, whole: bool = False) -> None:
        self.root = root
        self.whole = whole
        if (root / UNFINISHED).exists():
            raise DataError(
                f"{root} is half a data set: iwin shards write was stopped there. Start the same command again, which "
                "goes on."
            )

    def __str__(self) -> str:
        return str(self.root)

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """See ShardPlace."""
        return read_manifest(self.root)

    def indexes(self, pattern: str) -> list[ShardIndex]:
        """See ShardPlace."""
        return [ShardIndex(tar) for tar in sorted(self.root.glob(pattern)) if tar.suffix == ".tar"]

    def open(self, name: str) -> int:
        """See ShardPlace."""
        descriptor = open_path(self.root / name)
        if self.whole:
            # In pieces, as the system takes no more of a request than it can read at once. It does not wait for them.
            for start in range(0, os.fstat(descriptor).st_size, READ_AT_ONCE):
                os.posix_fadvise(descriptor, start, READ_AT_ONCE, os.POSIX_FADV_WILLNEED)
        return descriptor


def open_path(path: Path) -> int:
    """A descriptor to read the file `path` from."""
    return os.open(path, os.O_RDONLY)


Name = TypeVar("Name")


class OpenFiles(Generic[Name]):
    """Descriptors by name, from `opened` when first read; of more than `limit`, the oldest is closed.

    A usual limit of a process is 1,024 open files, and ImageNet-22K has more shards. Positioned reads share no
    offset, so a forked worker can go on with the descriptors that it inherits; a pickle carries none.
    """

    def __init__(self, opened: Callable[[Name], int], limit: int = OPEN_FILES) -> None:
        self.opened = opened
        self.limit = limit
        self._descriptors: OrderedDict[Name, int] = OrderedDict()

    def read(self, name: Name, offset: int, size: int) -> bytes:
        """`size` bytes of the file `name` from `offset`; fewer where it ends before. Raises as `opened`."""
        descriptor = self._descriptors.get(name)
        if descriptor is None:
            if len(self._descriptors) >= self.limit:
                os.close(self._descriptors.popitem(last=False)[1])
            descriptor = self._descriptors[name] = self.opened(name)
        else:
            self._descriptors.move_to_end(name)
        return os.pread(descriptor, size, offset)

    def __reduce__(self) -> tuple[type[OpenFiles[Name]], tuple[Callable[[Name], int], int]]:
        return OpenFiles, (self.opened, self.limit)

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


class ShardDataset(ImageDataset):
    """The samples of the shards at `place` whose names match the glob `pattern`, in the order of the names.

    Where there is a manifest, the shards found must be all those of the splits they belong to, unchanged: a
    shard that was lost on the way would otherwise only make the data set a little smaller.

    rows: (N,) ascending, where only these samples are of the data set.

    Raises:
        DataError: no shard matches, a shard or its index is damaged (see ShardIndex), or the manifest differs.
    """

    def __init__(
        self, place: ShardPlace, pattern: str, transform: Transform, seed: int | None, rows: np.ndarray | None = None
    ) -> None:
        super().__init__(transform, seed)
        self.place = place
        self.pattern = pattern
        self.rows = rows
        self.shards = place.indexes(pattern)
        if not self.shards:
            raise DataError(f"no shard matches {pattern!r} in {place}.")
        self._ends = np.cumsum([len(shard) for shard in self.shards])
        self._files = OpenFiles(place.open, place.open_files)
        manifest = place.manifest
        self.classes = None
        if manifest is not None:
            self.classes = list(manifest["classes"])
            self._check_manifest(manifest)

    def _check_manifest(self, manifest: dict[str, Any]) -> None:
        found = {shard.tar.name: shard for shard in self.shards}
        for split, told in manifest["splits"].items():
            expected = {shard["name"]: shard["sha256"] for shard in told["shards"]}
            if not expected.keys() & found.keys():
                continue
            lost = sorted(expected.keys() - found.keys())
            if lost:
                raise DataError(
                    f"{self.place}: {len(lost)} of {len(expected)} shards of split {split!r} do not match "
                    f"{self.pattern!r} or are not there (first: {lost[0]}). Fetch or write them again."
                )
            for name, digest in expected.items():
                if found[name].sha256 != digest:
                    raise DataError(f"{self.place}/{name} is not the shard that the manifest beside it tells of.")

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.rows is None else len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32, put together from the shards at each call."""
        labels = np.concatenate([shard.labels for shard in self.shards])
        return labels if self.rows is None else labels[self.rows]

    def class_counts(self) -> np.ndarray:
        """See ImageDataset; a shard at a time, as the labels of millions together would take memory in each process."""
        if self.rows is not None:
            return np.bincount(self.labels)
        counts = np.zeros(0, np.int64)
        for shard in self.shards:
            own = np.bincount(shard.labels, minlength=len(counts))
            own[: len(counts)] += counts
            counts = own
        return counts

    @property
    def shard_ends(self) -> np.ndarray:
        """(S,) int64: the position just past each shard's samples in this data set."""
        return self._ends if self.rows is None else np.searchsorted(self.rows, self._ends)

    def _locate(self, index: int) -> tuple[ShardIndex, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        place = index if self.rows is None else int(self.rows[index])
        number = int(np.searchsorted(self._ends, place, side="right"))
        shard = self.shards[number]
        return shard, place - (int(self._ends[number]) - len(shard))

    def label(self, index: int) -> int:
        """The label of image `index`."""
        shard, row = self._locate(index)
        return int(shard.labels[row])

    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`. Raises DataError where the shard ends before them."""
        shard, row = self._locate(index)
        size = int(shard.sizes[row])
        data = self._files.read(shard.tar.name, shard.offset(row), size)
        if len(data) != size:
            raise DataError(f"{shard.tar} ended inside {shard.keys[row]!r}: it was cut short after it was opened.")
        return data

    def key(self, index: int) -> str:
        """The shard's file name and the sample's key in it."""
        shard, row = self._locate(index)
        return f"{shard.tar.name}:{shard.keys[row]}"

    def describe(self) -> dict[str, Any]:
        """The root, the pattern, the number of samples, and each shard's count and SHA-256."""
        return {
            "root": str(self.place),
            "split": self.pattern,
            "samples": len(self),
            "shards": [
                {"name": shard.tar.name, "samples": len(shard), "sha256": shard.sha256} for shard in self.shards
            ],
        }

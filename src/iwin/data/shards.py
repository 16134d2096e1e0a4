"""A map-style data set over indexed tar shards: one positioned read a sample, in any order."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from iwin.data.dataset import ImageDataset
from iwin.data.index import ShardIndex
from iwin.data.manifest import read_manifest
from iwin.errors import DataError

OPEN_FILES = 256


class OpenFiles:
    """File descriptors by path, opened when first read and at most `limit` at a time (the oldest is closed).

    A usual limit of a process is 1,024 open files, and ImageNet-22K has more shards. Positioned reads share no
    offset, so a forked worker can go on with the descriptors that it inherits; a pickle carries none.
    """

    def __init__(self, limit: int = OPEN_FILES) -> None:
        self.limit = limit
        self._descriptors: OrderedDict[Path, int] = OrderedDict()

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """`size` bytes of `path` from `offset`; fewer where the file ends before. OSError as of os.open."""
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            if len(self._descriptors) >= self.limit:
                os.close(self._descriptors.popitem(last=False)[1])
            descriptor = self._descriptors[path] = os.open(path, os.O_RDONLY)
        else:
            self._descriptors.move_to_end(path)
        return os.pread(descriptor, size, offset)

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[int]]:
        return OpenFiles, (self.limit,)

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


class ShardDataset(ImageDataset):
    """The samples of the shards in `root` whose names match the glob `pattern`, in the order of the names.

    Where `root` has a manifest, the shards found must be all those of the splits they belong to, unchanged: a
    shard that was lost on the way would otherwise only make the data set a little smaller.

    Raises:
        DataError: no shard matches, a shard or its index is damaged (see ShardIndex), or the manifest differs.
    """

    def __init__(self, root: Path, pattern: str, transform: Callable[[Image.Image], Tensor], seed: int | None) -> None:
        super().__init__(transform, seed)
        self.root = root
        self.pattern = pattern
        tars = sorted(path for path in root.glob(pattern) if path.suffix == ".tar")
        if not tars:
            raise DataError(f"no shard matches {pattern!r} in {root}.")
        self.shards = [ShardIndex(tar) for tar in tars]
        self.labels = np.concatenate([np.asarray(shard.labels, dtype=np.int32) for shard in self.shards])
        self._ends = np.cumsum([len(shard) for shard in self.shards])
        self._files = OpenFiles()
        manifest = read_manifest(root)
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
                    f"{self.root}: {len(lost)} of {len(expected)} shards of split {split!r} do not match "
                    f"{self.pattern!r} or are not there (first: {lost[0]}). Fetch or write them again."
                )
            for name, digest in expected.items():
                if found[name].sha256 != digest:
                    raise DataError(f"{found[name].tar} is not the shard that the manifest beside it tells of.")

    def _locate(self, index: int) -> tuple[ShardIndex, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self.shards[number]
        return shard, index - (int(self._ends[number]) - len(shard))

    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`. Raises DataError where the shard ends before them."""
        shard, row = self._locate(index)
        size = int(shard.sizes[row])
        data = self._files.read(shard.tar, int(shard.offsets[row]), size)
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
            "root": str(self.root),
            "split": self.pattern,
            "samples": len(self),
            "shards": [
                {"name": shard.tar.name, "samples": len(shard), "sha256": shard.sha256} for shard in self.shards
            ],
        }

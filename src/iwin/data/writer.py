"""Writes images as WebDataset tar shards, each with its index, and a manifest that says what belongs to the data set.

The bytes depend on the samples alone (no times, no owners), so the same input gives the same files. Each file
gets its name when it is complete, and the manifest comes last: a folder with a manifest is a whole data set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from webdataset.writer import TarWriter

from iwin.data.index import IMAGE_EXTENSIONS, LABEL_EXTENSION, ShardIndex, index_path, write_index
from iwin.data.manifest import MANIFEST, write_manifest
from iwin.data.tarwalk import BLOCK
from iwin.data.whole_file import whole_file
from iwin.errors import ConfigError, DataError


class Sample(NamedTuple):
    """One image to be written. image: the encoded bytes, kept as they are; extension: without its dot."""

    key: str
    image: bytes
    extension: str
    label: int


def safe_key(name: str) -> str:
    """`name` as the last part of a key: letters, digits, _ and - are kept, as a dot would end the key."""
    return re.sub(r"[^\w-]", "_", name)


def sample_bytes(image_bytes: np.ndarray) -> np.ndarray:
    """What samples with images of so many bytes take in a shard; keys of over 90 bytes take some more."""
    return 3 * BLOCK + -(-image_bytes // BLOCK) * BLOCK  # two headers, and the label


class ShardLimit(NamedTuple):
    """A shard is closed once it holds `samples` samples, or at least `size` bytes: exactly one of the two is given."""

    samples: int | None = None
    size: int | None = None

    def check(self) -> None:
        """Raise ConfigError where not exactly one is given, or it is below 1."""
        given = [limit for limit in self if limit is not None]
        if len(given) != 1 or given[0] < 1:
            raise ConfigError("give a shard either a number of samples or a size in bytes, of at least 1.")


def refuse_used(root: Path) -> None:
    """Raise DataError where the folder `root` already holds shards or a manifest; it need not be there."""
    there = [path.name for path in sorted(root.glob("*.tar*"))] if root.is_dir() else []
    if there or (root / MANIFEST).exists():
        what = there[0] if there else MANIFEST
        raise DataError(
            f"{root} already holds a data set, or the remains of one ({what}), and is not overwritten. "
            "Remove it first, or write to another folder."
        )


def write_shard(path: Path, samples: Iterable[Sample], num_classes: int) -> ShardIndex:
    """Write `samples` as the shard `path`, then its index; each of the two files appears whole or not at all.

    Raises:
        DataError: a sample with an empty image, an unknown extension, a label without a class, or a key with a dot
            in its last part (it would end the key there); a key twice.
    """
    # No user, no time: the same samples give the same bytes on any machine and day.
    with whole_file(path) as file, TarWriter(file, user="", group="", mode=0o644, encoder=False, mtime=0) as tar:
        for sample in samples:
            _check(sample, num_classes)
            label = str(sample.label).encode()
            tar.write({"__key__": sample.key, sample.extension: sample.image, LABEL_EXTENSION: label})
    return write_index(path)


def manifest_split(shards: Sequence[ShardIndex]) -> dict[str, Any]:
    """What the manifest tells of a split that consists of `shards`."""
    return {
        "samples": sum(len(shard) for shard in shards),
        "shards": [
            {"name": shard.tar.name, "samples": len(shard), "bytes": shard.tar_size, "sha256": shard.sha256}
            for shard in shards
        ],
    }


class DataSetWriter:
    """Write samples that a program makes into the folder `root`, one split after the other, as a context manager.

    classes: their names, by label. about: what the manifest shall tell of the source (licence, citation, the
    command). Leaving the context writes the manifest; leaving it through an exception removes what was written.
    Images that lie in files are better written by iwin.data.planned, in parallel.

    Raises:
        DataError: `root` already holds shards or a manifest; a sample cannot be written.
    """

    def __init__(self, root: Path, *, classes: Sequence[str], about: dict[str, Any]) -> None:
        self.root = root
        self.classes = list(classes)
        self.about = about
        self._splits: dict[str, dict[str, Any]] = {}
        self._written: list[Path] = []

    def __enter__(self) -> DataSetWriter:
        refuse_used(self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if error is not None:
            for path in self._written:
                path.unlink(missing_ok=True)
            return
        write_manifest(self.root, self.classes, self._splits, self.about)

    def write_split(
        self,
        split: str,
        samples: Iterable[Sample],
        *,
        samples_per_shard: int | None = None,
        shard_bytes: int | None = None,
    ) -> None:
        """Write `samples`, in their order, as `<split>-00000.tar` and so on.

        A shard is closed once it holds `samples_per_shard` samples or at least `shard_bytes` bytes: exactly one
        of the two is given.

        Raises:
            DataError: no samples, or as write_shard.
        """
        limit = ShardLimit(samples_per_shard, shard_bytes)
        limit.check()
        remaining = iter(samples)
        shards: list[ShardIndex] = []
        for first in remaining:
            path = self.root / f"{split}-{len(shards):05d}.tar"
            self._written += [path, index_path(path)]
            shards.append(write_shard(path, _until_full(chain([first], remaining), limit), len(self.classes)))
        if not shards:
            raise DataError(f"split {split!r} has no samples to write to {self.root}.")
        self._splits[split] = manifest_split(shards)


def _until_full(samples: Iterable[Sample], limit: ShardLimit) -> Iterator[Sample]:
    size = 0
    for count, sample in enumerate(samples, start=1):
        yield sample
        size += int(sample_bytes(np.array(len(sample.image))))
        if count == limit.samples or (limit.size is not None and size >= limit.size):
            return


def _check(sample: Sample, num_classes: int) -> None:
    if not sample.image:
        raise DataError(f"image {sample.key!r} is empty. Remove or replace it.")
    if sample.extension not in IMAGE_EXTENSIONS:
        known = ", ".join(IMAGE_EXTENSIONS)
        raise DataError(f"image {sample.key!r} has extension {sample.extension!r}; shards hold {known}.")
    if not 0 <= sample.label < num_classes:
        raise DataError(f"image {sample.key!r} has label {sample.label}, and there are {num_classes} classes.")
    if "." in sample.key.rpartition("/")[2] or sample.key.endswith("/") or not sample.key:
        raise DataError(f"{sample.key!r} cannot be a key: its last part must not be empty or hold a dot.")

"""Writes a data set as WebDataset tar shards, each with its index, and a manifest that says what belongs to it.

The bytes depend on the samples alone (no times, no owners), so the same input gives the same files. Each file
gets its name when it is complete, and the manifest comes last: a folder with a manifest is a whole data set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from webdataset.writer import TarWriter

from iwin.data.index import IMAGE_EXTENSIONS, LABEL_EXTENSION, ShardIndex, index_path, write_index
from iwin.data.manifest import MANIFEST, write_manifest
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


def refuse_used(root: Path) -> None:
    """Raise DataError where the folder `root` already holds shards or a manifest; it need not be there."""
    there = [path.name for path in sorted(root.glob("*.tar*"))] if root.is_dir() else []
    if there or (root / MANIFEST).exists():
        what = there[0] if there else MANIFEST
        raise DataError(
            f"{root} already holds a data set, or the remains of one ({what}), and is not overwritten. "
            "Remove it first, or write to another folder."
        )


class DataSetWriter:
    """Write a data set into the folder `root`, one split after the other, as a context manager.

    classes: their names, by label. about: what the manifest shall tell of the source (licence, citation, the
    command). Leaving the context writes the manifest; leaving it through an exception removes what was written.

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
            DataError: no samples, a sample with an empty image, an unknown extension, a label without a class,
                or a key with a dot in its last part (it would end the key there).
        """
        limit = samples_per_shard if samples_per_shard is not None else shard_bytes
        if (samples_per_shard is None) == (shard_bytes is None) or limit is None or limit < 1:
            raise ConfigError("give a shard either samples_per_shard or shard_bytes, at least 1.")
        shards: list[ShardIndex] = []
        remaining = iter(samples)
        sample = next(remaining, None)
        while sample is not None:
            path = self.root / f"{split}-{len(shards):05d}.tar"
            self._written += [path, index_path(path)]
            # No user, no time: the same samples give the same bytes on any machine and day.
            with (
                whole_file(path) as file,
                TarWriter(file, user="", group="", mode=0o644, encoder=False, mtime=0) as tar,
            ):
                count = 0
                while sample is not None and (file.tell() if shard_bytes is not None else count) < limit:
                    self._add(tar, sample)
                    count += 1
                    sample = next(remaining, None)
            shards.append(write_index(path))
        if not shards:
            raise DataError(f"split {split!r} has no samples to write to {self.root}.")
        self._splits[split] = {
            "samples": sum(len(shard) for shard in shards),
            "shards": [
                {"name": shard.tar.name, "samples": len(shard), "bytes": shard.tar_size, "sha256": shard.sha256}
                for shard in shards
            ],
        }

    def _add(self, tar: TarWriter, sample: Sample) -> None:
        self._check(sample)
        label = str(sample.label).encode()
        tar.write({"__key__": sample.key, sample.extension: sample.image, LABEL_EXTENSION: label})

    def _check(self, sample: Sample) -> None:
        if not sample.image:
            raise DataError(f"image {sample.key!r} is empty. Remove or replace it.")
        if sample.extension not in IMAGE_EXTENSIONS:
            known = ", ".join(IMAGE_EXTENSIONS)
            raise DataError(f"image {sample.key!r} has extension {sample.extension!r}; shards hold {known}.")
        if not 0 <= sample.label < len(self.classes):
            raise DataError(
                f"image {sample.key!r} has label {sample.label}, and there are {len(self.classes)} classes."
            )
        if "." in sample.key.rpartition("/")[2] or sample.key.endswith("/") or not sample.key:
            raise DataError(f"{sample.key!r} cannot be a key: its last part must not be empty or hold a dot.")

"""Whether a data set of shards is whole: its shards and indexes against its manifest, and against each other."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iwin.data.decode import decode
from iwin.data.index import ShardIndex, walk_samples
from iwin.data.manifest import MANIFEST, UNFINISHED, read_manifest
from iwin.errors import ConfigError, DataError


class Report(NamedTuple):
    """problems: what is wrong and where, a line each. summary: what was checked, where nothing is wrong."""

    problems: list[str]
    summary: str


class Told(NamedTuple):
    """What a manifest tells of one shard. size: in bytes."""

    split: str
    samples: int
    size: int
    sha256: str


def check_data_set(root: Path, *, deep: bool, jobs: int = 1) -> Report:
    """Check the shards in `root`, each with its index, against the manifest, where there is one.

    deep: read every byte, for the SHA-256 and the members of each tar, and decode every image. Without it the
        hashes are those that the indexes carry, from when they were made. jobs: shards checked at a time.

    Raises:
        ConfigError: jobs is below 1.
        DataError: `root` is not a folder, or holds neither shards nor a manifest.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs}: give a number from 1.")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder.")
    tars = {path.name: path for path in sorted(root.glob("*.tar"))}
    problems: list[str] = []
    told: dict[str, Told] | None = None
    classes: list[str] | None = None
    try:
        manifest = read_manifest(root)
        if manifest is not None:
            told, classes = _read(root, manifest), manifest["classes"]
    except DataError as error:
        problems.append(str(error))
    if not tars and not told and not problems:
        raise DataError(f"{root} holds no .tar file and no {MANIFEST}.")
    problems += [f"{root / name}: missing; the manifest tells of it." for name in (told or {}) if name not in tars]
    problems += _left_over(root, tars, told)
    indexes: dict[str, ShardIndex] = {}

    def check(path: Path) -> list[str]:
        try:
            index = indexes[path.name] = ShardIndex(path)
        except DataError as error:
            return [str(error)]
        wrong = _shard_problems(index, None if told is None else told.get(path.name), classes)
        return wrong + (_deep_problems(index) if deep else [])

    with ThreadPoolExecutor(jobs) as pool:
        for wrong in pool.map(check, tars.values()):
            problems += wrong
    opened = [indexes[name] for name in tars if name in indexes]
    for split in sorted({one.split for one in told.values()}) if told is not None else [None]:
        problems += _repeated_keys(
            index
            for index in opened
            if told is None or (index.tar.name in told and told[index.tar.name].split == split)
        )
    return Report(problems, _summary(opened, told, classes, deep))


def _read(root: Path, manifest: dict[str, Any]) -> dict[str, Told]:
    """What the manifest tells, by shard. Raises DataError where it lacks something, or contradicts itself."""
    try:
        rows = [
            (shard["name"], Told(split, int(shard["samples"]), int(shard["bytes"]), str(shard["sha256"])))
            for split, told in manifest["splits"].items()
            for shard in told["shards"]
        ]
        totals = {split: int(told["samples"]) for split, told in manifest["splits"].items()}
        sound = isinstance(manifest["classes"], list) and len({name for name, _ in rows}) == len(rows)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{root / MANIFEST} is damaged ({type(error).__name__}: {error}).") from error
    counts = Counter(dict.fromkeys(totals, 0))
    for _, shard in rows:
        counts[shard.split] += shard.samples
    if not sound or dict(counts) != totals:
        raise DataError(f"{root / MANIFEST} contradicts itself: its shards hold {dict(counts)} samples of {totals}.")
    return dict(rows)


def _left_over(root: Path, tars: dict[str, Path], told: dict[str, Told] | None) -> list[str]:
    extra = [] if told is None else [name for name in tars if name not in told]
    return [
        *(f"{root / name}: not in the manifest." for name in extra),
        *(
            f"{path}: an index without its shard."
            for path in sorted(root.glob("*.idx"))
            if path.stem + ".tar" not in tars
        ),
        *(f"{path}: iwin shards write was stopped here; the same command goes on." for path in root.glob(UNFINISHED)),
        *(f"{path}: left over from writing that did not end." for path in sorted(root.glob("*.partial"))),
    ]


def _shard_problems(index: ShardIndex, told: Told | None, classes: list[str] | None) -> list[str]:
    problems = []
    if told is not None:
        pairs = {
            "bytes": (index.tar_size, told.size),
            "samples": (len(index), told.samples),
            "sha256": (index.sha256, told.sha256),
        }
        problems = [
            f"{index.tar}: {what} {here}, and the manifest tells {there}."
            for what, (here, there) in pairs.items()
            if here != there
        ]
    outside = np.flatnonzero((index.labels < 0) | (index.labels >= (2**31 if classes is None else len(classes))))
    if len(outside):
        row = int(outside[0])
        problems.append(
            f"{index.tar}: {len(outside)} labels out of range (first: {index.labels[row]}, key {index.keys[row]!r})."
        )
    return problems


def _deep_problems(index: ShardIndex) -> list[str]:
    """Walk the tar, compare it with its index, and decode each image."""
    try:
        entries, digest, _ = walk_samples(index.tar)
    except DataError as error:
        return [str(error)]
    problems = []
    if digest.hex() != index.sha256:
        problems.append(f"{index.tar}: its bytes have sha256 {digest.hex()}, and had {index.sha256} when indexed.")
    indexed = zip(index.offsets.tolist(), index.sizes.tolist(), index.labels.tolist(), strict=True)
    there = [(entry.offset, entry.size, entry.label) for entry in entries]
    keys = list(index.keys)
    if list(indexed) != there or keys != [entry.key for entry in entries]:
        problems.append(f"{index.tar}: its index does not tell what it holds. iwin shards index {index.tar.parent}")
    with index.tar.open("rb") as file:
        for entry in entries:
            file.seek(entry.offset)
            try:
                decode(file.read(entry.size), f"{index.tar}:{entry.key}")
            except DataError as error:
                problems.append(str(error))
    return problems


def _repeated_keys(indexes: Iterable[ShardIndex]) -> list[str]:
    """The keys that come twice in a split. By their hashes first: a set of 14 million keys would take gigabytes."""
    shards = list(indexes)
    hashes = [np.array([_hash(key) for key in shard.keys], dtype=np.uint64) for shard in shards]
    values, counts = np.unique(np.concatenate([*hashes, np.empty(0, np.uint64)]), return_counts=True)
    suspects = values[counts > 1]
    places: dict[str, list[str]] = {}
    for shard, own in zip(shards, hashes, strict=True):
        repeated = np.flatnonzero(np.isin(own, suspects)).tolist()
        keys = list(shard.keys) if repeated else []
        for row in repeated:
            places.setdefault(keys[row], []).append(str(shard.tar))
    return [f"{tars[0]}: key {key!r} comes again in {tars[1]}." for key, tars in places.items() if len(tars) > 1]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def _summary(shards: list[ShardIndex], told: dict[str, Told] | None, classes: list[str] | None, deep: bool) -> str:
    read = "; every byte read, every image decoded" if deep else ""
    if told is None:
        samples = sum(len(shard) for shard in shards)
        return f"right: {samples} samples in {len(shards)} shards; no manifest tells whether that is all{read}"
    counts: dict[str, list[int]] = {}
    for shard in told.values():
        counts.setdefault(shard.split, []).append(shard.samples)
    parts = ", ".join(f"{sum(samples)} {split} in {len(samples)} shards" for split, samples in counts.items())
    return f"right: {parts}, {len(classes or [])} classes{read}"

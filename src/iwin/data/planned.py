"""Writes a planned data set, its shards side by side, and goes on where a run before was ended.

A shard is finished when its tar and its index have their names, and each is a function of the plan alone: so it does
not matter which process writes it, when, or whether a run before did.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iwin.data.forked import forked
from iwin.data.index import ShardIndex, index_path, walk_samples
from iwin.data.manifest import write_manifest
from iwin.data.shard_plan import PlannedShard, SplitPlan
from iwin.data.shrink import Shrink
from iwin.data.unfinished import sync_folder, unfinished
from iwin.data.writer import manifest_split, write_shard
from iwin.errors import DataError

WRITTEN, KEPT, REPLACED = "written", "kept", "replaced"


class Finished(NamedTuple):
    """A finished shard. how: written now, kept from a run before, or replaced, as what that run left was damaged."""

    shard: PlannedShard
    how: str


def write_planned(
    root: Path,
    plans: Sequence[SplitPlan],
    *,
    classes: list[str],
    about: dict[str, Any],
    shrink: Shrink | None,
    jobs: int,
    finished: Callable[[Finished], None],
) -> Counter[str]:
    """Write the splits `plans` to the folder `root`, by `jobs` processes; how many shards were written, kept, replaced.

    classes: their names, by label. about: all that the user chose and the bytes depend on, as the manifest tells it.
    finished: called for each shard, in any order. The files are the same for any `jobs`, and after any number of
    runs that were ended before.

    Raises:
        DataError: `root` holds another data set, whole or unfinished; an image cannot be used; the folder cannot be
            written; a process was killed. Finished shards stay for the next run.
    """
    writer = _ShardWriter(root, {plan.split: plan for plan in plans}, len(classes), shrink)
    shards = [shard for plan in plans for shard in plan.shards()]
    counts: Counter[str] = Counter()
    with unfinished(root, _told(plans, classes, about)):
        _refuse_strangers(root, shards)
        try:
            with forked(writer.finish, shards, jobs) as results:
                for result in results:
                    counts[result.how] += 1
                    finished(result)
        except BaseException:
            for shard in shards:
                for path in (root / shard.name, index_path(root / shard.name)):
                    path.with_name(path.name + ".partial").unlink(missing_ok=True)
            raise
        sync_folder(root)
        splits = {
            plan.split: manifest_split([ShardIndex(root / shard.name) for shard in plan.shards()]) for plan in plans
        }
        write_manifest(root, classes, splits, about)
    return counts


class _ShardWriter:
    """What a process needs to know to write any shard of the plan."""

    def __init__(self, root: Path, plans: dict[str, SplitPlan], num_classes: int, shrink: Shrink | None) -> None:
        self.root = root
        self.plans = plans
        self.num_classes = num_classes
        self.shrink = shrink

    def finish(self, shard: PlannedShard) -> Finished:
        """Write `shard`, where it is not there as it shall be."""
        path = self.root / shard.name
        there = path.exists() and index_path(path).exists()
        try:
            if there and self._is_right(shard):
                return Finished(shard, KEPT)
            index_path(path).unlink(missing_ok=True)  # so that no index lies beside a tar that it is not of
            write_shard(path, self.plans[shard.split].samples(shard, self.shrink), self.num_classes)
        except OSError as error:
            raise DataError(
                f"{error.filename or path} cannot be written or read: {error.strerror}. What is finished stays: "
                "see to that, and give the same command again."
            ) from error
        return Finished(shard, REPLACED if there else WRITTEN)

    def _is_right(self, shard: PlannedShard) -> bool:
        """Whether the tar is, to the last byte, what its index tells, and both are what the plan tells.

        All of it is read again: the hash is of what was written, and a disk may have lost some of it since.
        """
        path, plan = self.root / shard.name, self.plans[shard.split]
        try:
            index = ShardIndex(path)
            entries, digest, _ = walk_samples(path)
        except DataError:  # damaged, which is an answer here
            return False
        indexed = zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
        labels = plan.images.labels[plan.order[shard.start : shard.stop]].tolist()
        indexed_keys = index.keys
        keys = [plan.key(place) for place in range(shard.start, shard.stop)]
        return (
            digest.hex() == index.sha256
            and [(entry.offset, entry.size) for entry in entries] == list(indexed)
            and [entry.label for entry in entries] == index.labels.tolist() == labels
            and [entry.key for entry in entries] == [indexed_keys[row] for row in range(len(index))] == keys
        )


def _told(plans: Sequence[SplitPlan], classes: list[str], about: dict[str, Any]) -> dict[str, Any]:
    """All that the data set is a function of, for the plan file."""
    return {
        **about,
        "classes": len(classes),
        "classes_sha256": hashlib.sha256(json.dumps(classes).encode()).hexdigest(),
        "splits": {
            plan.split: {"images": len(plan.order), "shards": len(plan.ends), "source_sha256": plan.source_hash()}
            for plan in plans
        },
    }


def _refuse_strangers(root: Path, shards: Sequence[PlannedShard]) -> None:
    strangers = sorted({path.name for path in root.glob("*.tar")} - {shard.name for shard in shards})
    if strangers:
        raise DataError(f"{root / strangers[0]} is none of the shards that are written there. Move it away.")

"""A manifest for shards that another tool wrote: reading over a network needs one, as it cannot list a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from iwin.data.index import ShardIndex
from iwin.data.manifest import MANIFEST, write_manifest
from iwin.data.unfinished import UNFINISHED
from iwin.data.writer import manifest_split
from iwin.errors import DataError

SHARD_NAME = re.compile(r"(.+?)-[0-9]+(-of-[0-9]+)?")


def splits_by_name(tars: Sequence[Path]) -> dict[str, list[Path]]:
    """The shards by split, which is their name up to the number: train-00012.tar, in1k-val-3-of-9.tar (in1k-val).

    Raises:
        DataError: a name that does not end in a number.
    """
    splits: dict[str, list[Path]] = {}
    for tar in tars:
        named = SHARD_NAME.fullmatch(tar.stem)
        if named is None:
            raise DataError(f"{tar} does not tell its split: the manifest is of shards named as train-00000.tar.")
        splits.setdefault(named[1], []).append(tar)
    return splits


def refuse_manifest(root: Path) -> None:
    """Raise DataError where `root` has a manifest, or will have: a data set is still being written to it."""
    if (root / MANIFEST).exists():
        raise DataError(f"{root / MANIFEST} is there already, and is not overwritten. Remove it first.")
    if (root / UNFINISHED).exists():
        raise DataError(f"{root} is not written to its end ({UNFINISHED}): end that first, which makes the manifest.")


def write_foreign_manifest(root: Path, tars: Sequence[Path], classes: list[str]) -> None:
    """Write the manifest of the indexed shards `tars`, all in `root`. classes: their names, by label.

    Raises:
        DataError: as splits_by_name, refuse_manifest and ShardIndex.
    """
    refuse_manifest(root)
    splits = {split: manifest_split([ShardIndex(tar) for tar in some]) for split, some in splits_by_name(tars).items()}
    write_manifest(root, classes, splits, {"command": "iwin shards index --manifest"})


def read_class_names(path: Path) -> list[str]:
    """The names of the classes by label, a line each. Raises DataError where there are none, or a line is empty."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from error
    if not names:
        raise DataError(f"{path} is empty: it shall hold the names of the classes, by label, one a line.")
    if not all(names):
        raise DataError(f"{path}, line {names.index('') + 1} is empty: each line names the class of one label, from 0.")
    return names

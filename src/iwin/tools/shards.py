"""`iwin shards`: write image folders as indexed tar shards, and index shards that another tool wrote."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from iwin.data.folder import ImageFiles, extension_of, find_images, stratified_split
from iwin.data.index import write_index
from iwin.data.writer import DataSetWriter, Sample, safe_key
from iwin.errors import ConfigError, DataError
from iwin.runtime import position_seed

SPLITS = ("train", "val")
MEGABYTE = 1_000_000


def add_parser(subparsers: Any) -> None:
    """Add `shards` with its commands `write` and `index` to the subparsers of `iwin`."""
    shards = subparsers.add_parser("shards", help="write and index tar shards of images")
    commands = shards.add_subparsers(dest="shards_command", required=True, metavar="COMMAND")

    write = commands.add_parser(
        "write",
        help="write image folders as shards",
        description="Write SRC/train/<class>/* and SRC/val/<class>/*, or with --val-fraction SRC/<class>/*, as tar "
        "shards in DST, shuffled once, each with its index. The images' bytes are kept as they are.",
    )
    write.add_argument("source", type=Path, metavar="SRC")
    write.add_argument("target", type=Path, metavar="DST")
    write.add_argument("--val-fraction", type=float, help="share of every class of SRC/<class>/* for validation")
    write.add_argument("--seed", type=int, default=0, help="of the order and of the split (default: 0)")
    size = write.add_mutually_exclusive_group()
    size.add_argument("--shard-size", type=float, default=256, metavar="MB", help="megabytes a shard (default: 256)")
    size.add_argument("--samples-per-shard", type=int, metavar="N", help="samples a shard, instead of its size")
    write.set_defaults(func=write_command)

    index = commands.add_parser(
        "index",
        help="index shards that another tool wrote",
        description="Check every .tar in the folders, in the WebDataset convention (<key>.jpg, .jpeg, .png or .webp "
        "and the label in <key>.cls), and write its index beside it.",
    )
    index.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    index.add_argument("--num-classes", type=int, metavar="N", help="refuse labels of N or more")
    index.set_defaults(func=index_command)


def write_command(arguments: argparse.Namespace) -> int:
    """Run `iwin shards write`. Raises DataError and ConfigError for what cannot be read or written."""
    splits = _splits(arguments.source, arguments.val_fraction, arguments.seed)
    per_shard: dict[str, int] = {"shard_bytes": int(arguments.shard_size * MEGABYTE)}
    if arguments.samples_per_shard is not None:
        per_shard = {"samples_per_shard": arguments.samples_per_shard}
    about = {"command": ["iwin", *sys.argv[1:]], "source": str(arguments.source), "seed": arguments.seed}
    with DataSetWriter(arguments.target, classes=splits["train"].classes, about=about) as writer:
        for split, files in splits.items():
            samples = track(_samples(files, arguments.seed), split, total=len(files.labels))
            writer.write_split(split, samples, **per_shard)
    counts = ", ".join(f"{len(files.labels)} {split}" for split, files in splits.items())
    print(f"{arguments.target}: {counts} images of {len(splits['train'].classes)} classes")
    return 0


def _splits(source: Path, fraction: float | None, seed: int) -> dict[str, ImageFiles]:
    split_already = all((source / split).is_dir() for split in SPLITS)
    if split_already and fraction is not None:
        raise ConfigError(f"{source} has train/ and val/ already: leave out --val-fraction {fraction}.")
    if split_already:
        train = find_images(source / "train")
        return {"train": train, "val": find_images(source / "val", train.classes)}
    if fraction is None:
        raise ConfigError(
            f"{source} has not both train/ and val/. If it holds <class>/<image>, make a split: --val-fraction 0.1."
        )
    files = find_images(source)
    halves = stratified_split(files.labels, fraction, seed)
    return {split: files.select(half) for split, half in zip(SPLITS, halves, strict=True)}


def _samples(files: ImageFiles, seed: int) -> Iterator[Sample]:
    """The images in an order that is a function of the seed; each key tells its place in it and the file's name."""
    generator = np.random.Generator(np.random.PCG64(position_seed(seed, "shards")))
    for place, index in enumerate(generator.permutation(len(files.labels)).tolist()):
        path = Path(files.paths[index])
        key = safe_key(f"{place:08d}-{path.stem}")
        yield Sample(key, files.read(index), extension_of(path.name), int(files.labels[index]))


def index_command(arguments: argparse.Namespace) -> int:
    """Run `iwin shards index`. Raises DataError at the first shard that is not sound."""
    tars = [tar for folder in arguments.folders for tar in _tars(folder)]
    samples = sum(len(write_index(tar, arguments.num_classes)) for tar in track(tars, "index"))
    print(f"{len(tars)} shards, {samples} samples")
    return 0


def _tars(folder: Path) -> list[Path]:
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(f"{folder} {'holds no .tar file' if folder.is_dir() else 'is not a folder'}.")
    return tars

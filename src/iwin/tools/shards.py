"""`iwin shards`: write images as indexed tar shards, check them, and index shards that another tool wrote."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from rich.progress import track

from iwin.data.check import check_data_set
from iwin.data.folder import extension_of
from iwin.data.index import write_index
from iwin.data.writer import DataSetWriter, Sample, refuse_used, safe_key
from iwin.errors import DataError
from iwin.runtime import position_seed
from iwin.tools.shard_sources import LAYOUTS, Given, LabelledImages, find_splits, recognise

MEGABYTE = 1_000_000


def add_parser(subparsers: Any) -> None:
    """Add `shards` with its commands `write`, `index` and `check` to the subparsers of `iwin`."""
    shards = subparsers.add_parser("shards", help="write, index and check tar shards of images")
    commands = shards.add_subparsers(dest="shards_command", required=True, metavar="COMMAND")

    write = commands.add_parser(
        "write",
        help="write images as shards",
        description="Write SRC as tar shards in DST, shuffled once, each with its index.\n"
        f"The images' bytes are kept as they are; archives are read in place.\n\n{LAYOUTS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    write.add_argument("source", type=Path, metavar="SRC")
    write.add_argument("target", type=Path, metavar="DST")
    write.add_argument("--val-fraction", type=float, help="share of every class for validation, where SRC is not split")
    write.add_argument(
        "--val-labels", type=Path, metavar="FILE", help="synset or ILSVRC id of each ILSVRC2012_val image"
    )
    write.add_argument("--synset-order", type=Path, metavar="FILE", help="the synsets in the order of the ILSVRC ids")
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

    check = commands.add_parser(
        "check",
        help="check shards against their manifest",
        description="Compare the shards in DST and their indexes with the manifest: what is missing or too much, "
        "sizes, counts, hashes as they were when indexed, labels, keys. The exit code is 1 where anything is wrong.",
    )
    check.add_argument("root", type=Path, metavar="DST")
    check.add_argument("--deep", action="store_true", help="read every byte: hashes, and every image is decoded")
    check.add_argument("--jobs", type=int, default=1, metavar="N", help="shards checked at a time (default: 1)")
    check.set_defaults(func=check_command)


def write_command(arguments: argparse.Namespace) -> int:
    """Run `iwin shards write`. Raises DataError and ConfigError for what cannot be read or written."""
    refuse_used(arguments.target)  # before archives of a terabyte are looked through
    given = Given(arguments.val_fraction, arguments.val_labels, arguments.synset_order)
    kind = recognise(arguments.source)
    print(f"{arguments.source}: {kind.told}")
    splits = find_splits(arguments.source, kind, given, arguments.seed)
    per_shard: dict[str, int] = {"shard_bytes": int(arguments.shard_size * MEGABYTE)}
    if arguments.samples_per_shard is not None:
        per_shard = {"samples_per_shard": arguments.samples_per_shard}
    about = {"command": ["iwin", *sys.argv[1:]], "source": str(arguments.source), "seed": arguments.seed}
    with DataSetWriter(arguments.target, classes=splits["train"].classes, about=about) as writer:
        for split, images in splits.items():
            samples = track(_samples(images, arguments.seed), split, total=len(images.labels))
            writer.write_split(split, samples, **per_shard)
    counts = ", ".join(f"{len(images.labels)} {split}" for split, images in splits.items())
    print(f"{arguments.target}: {counts} images of {len(splits['train'].classes)} classes")
    return 0


def _samples(images: LabelledImages, seed: int) -> Iterator[Sample]:
    """The images in an order that is a function of the seed; each key tells its place in it and the file's name."""
    generator = np.random.Generator(np.random.PCG64(position_seed(seed, "shards")))
    for place, index in enumerate(generator.permutation(len(images.labels)).tolist()):
        name = PurePosixPath(images.name(index))
        key = safe_key(f"{place:08d}-{name.stem}")
        yield Sample(key, images.read(index), extension_of(name.name), int(images.labels[index]))


def check_command(arguments: argparse.Namespace) -> int:
    """Run `iwin shards check`: 1 where anything is wrong, after a line for each. DataError where nothing is there."""
    report = check_data_set(arguments.root, deep=arguments.deep, jobs=arguments.jobs)
    for problem in report.problems:
        print(problem)
    if report.problems:
        print(f"{arguments.root}: wrong in {len(report.problems)} places")
        return 1
    print(f"{arguments.root}: {report.summary}")
    return 0


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

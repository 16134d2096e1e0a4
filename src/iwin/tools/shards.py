"""`iwin shards`: write images as indexed tar shards, check them, and index shards that another tool wrote."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn, track

from iwin.data.check import check_data_set
from iwin.data.foreign import read_class_names, refuse_manifest, splits_by_name, write_foreign_manifest
from iwin.data.index import write_index
from iwin.data.planned import KEPT, REPLACED, Finished, write_planned
from iwin.data.shard_plan import plan_split
from iwin.data.shrink import Shrink
from iwin.data.unfinished import refuse_finished
from iwin.data.writer import ShardLimit
from iwin.errors import ConfigError, DataError, whole
from iwin.tools.shard_sources import LAYOUTS, Given, Kind, find_splits, recognise, source_sizes

MEGABYTE = 1_000_000
QUALITY = 95
INTERRUPTED = 130  # what a shell gives a program that Ctrl-C ended


def add_parser(subparsers: Any) -> None:
    """Add `shards` with its commands `write`, `index` and `check` to the subparsers of `iwin`."""
    shards = subparsers.add_parser("shards", help="write, index and check tar shards of images")
    commands = shards.add_subparsers(dest="shards_command", required=True, metavar="COMMAND")
    cores = len(os.sched_getaffinity(0))

    write = commands.add_parser(
        "write",
        help="write images as shards",
        description="Write SRC as tar shards in DST, shuffled once, each with its index; archives are read in place.\n"
        "The images' bytes are kept as they are, unless --resize makes them smaller. Where a run was ended, the\n"
        f"same command goes on with it.\n\n{LAYOUTS}",
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
    write.add_argument(
        "--resize", type=int, metavar="SIDE", help="make images smaller whose short side has more than SIDE pixels"
    )
    write.add_argument(
        "--quality", type=int, metavar="Q", help=f"of the JPEGs and WebPs that --resize makes (default: {QUALITY})"
    )
    write.add_argument("--jobs", type=int, default=cores, metavar="N", help=f"shards at a time (default: {cores})")
    write.set_defaults(func=write_command)

    index = commands.add_parser(
        "index",
        help="index shards that another tool wrote",
        description="Check every .tar in the folders, in the WebDataset convention (<key>.jpg, .jpeg, .png or .webp "
        "and the label in <key>.cls), and write its index beside it. With --manifest, write manifest.json to each "
        "folder too, which shards that are read over a network need; their names are <split>-<number>.tar.",
    )
    index.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    index.add_argument("--num-classes", type=int, metavar="N", help="refuse labels of N or more")
    index.add_argument("--manifest", action="store_true", help="write a manifest too; needs --classes")
    index.add_argument("--classes", type=Path, metavar="FILE", help="names of the classes by label, one a line")
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
    """Run `iwin shards write`; 130 after Ctrl-C. Raises DataError and ConfigError for what cannot be read or written.

    Beside what is being written there is `unfinished.json`, until all of it is: see iwin.data.unfinished.
    """
    jobs = whole("--jobs", arguments.jobs, 1)
    limit, shrink = _limit(arguments), _shrink(arguments)
    refuse_finished(arguments.target)  # before archives of a terabyte are looked through
    given = Given(arguments.val_fraction, arguments.val_labels, arguments.synset_order)
    kind = recognise(arguments.source)
    print(f"{arguments.source}: {kind.told}")
    splits = find_splits(arguments.source, kind, given, arguments.seed)
    classes = splits["train"].classes
    total = sum(len(images.labels) for images in splits.values())
    try:
        plans = [
            plan_split(split, images, source_sizes(images), seed=arguments.seed, limit=limit, shrink=shrink, jobs=jobs)
            for split, images in splits.items()
        ]
        with _bar() as bar:
            images_done = bar.add_task("images", total=total)

            def finished(done: Finished) -> None:
                bar.update(images_done, advance=done.shard.stop - done.shard.start, refresh=True)

            how = write_planned(
                arguments.target,
                plans,
                classes=classes,
                about=_about(arguments, kind, given, shrink),
                shrink=shrink,
                jobs=jobs,
                finished=finished,
            )
    except KeyboardInterrupt:
        print(f"{arguments.target}: stopped. Finished shards stay, and the same command goes on.")
        return INTERRUPTED
    if how[KEPT] or how[REPLACED]:
        print(f"of a run before, {how[KEPT]} shards were kept, and {how[REPLACED]} damaged ones written again")
    counts = ", ".join(f"{len(images.labels)} {split}" for split, images in splits.items())
    print(f"{arguments.target}: {counts} images of {len(classes)} classes")
    return 0


def _limit(arguments: argparse.Namespace) -> ShardLimit:
    if arguments.samples_per_shard is not None:
        return ShardLimit(samples=whole("--samples-per-shard", arguments.samples_per_shard, 1))
    if arguments.shard_size <= 0:
        raise ConfigError(f"--shard-size is {arguments.shard_size}: give megabytes, more than 0.")
    return ShardLimit(size=max(1, int(arguments.shard_size * MEGABYTE)))


def _shrink(arguments: argparse.Namespace) -> Shrink | None:
    if arguments.resize is None:
        if arguments.quality is not None:
            raise ConfigError(f"--quality {arguments.quality} is of what --resize makes: give it too, or leave it out.")
        return None
    quality = whole("--quality", QUALITY if arguments.quality is None else arguments.quality, 1)
    if quality > 100:
        raise ConfigError(f"--quality is {quality}: give a number from 1 to 100.")
    return Shrink(whole("--resize", arguments.resize, 1), quality)


def _about(arguments: argparse.Namespace, kind: Kind, given: Given, shrink: Shrink | None) -> dict[str, Any]:
    """What the manifest tells of the source: all that was chosen and the bytes depend on, so not the jobs."""
    sized = arguments.samples_per_shard is None
    per_shard = {"shard_size": arguments.shard_size} if sized else {"samples_per_shard": arguments.samples_per_shard}
    options = {name: value for name, value in given._asdict().items() if value is not None}
    return {
        "command": "iwin shards write",
        "source": str(arguments.source.absolute()),
        "layout": kind.told,
        "seed": arguments.seed,
        **{name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        **per_shard,
        **(shrink.told() if shrink is not None else {}),
    }


def _bar() -> Progress:
    # Refreshed at each shard, not by a thread: processes are forked beside it, and a thread may hold a lock then.
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, auto_refresh=False)


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
    if arguments.manifest != (arguments.classes is not None):
        raise ConfigError("--manifest and --classes FILE belong together: the manifest tells the names of the classes.")
    if arguments.manifest and arguments.num_classes is not None:
        raise ConfigError("--classes FILE tells the number of classes: leave out --num-classes.")
    found = {folder: _tars(folder) for folder in arguments.folders}
    classes: list[str] = []
    num_classes = arguments.num_classes
    if arguments.manifest:
        classes = read_class_names(arguments.classes)
        num_classes = len(classes)
        for folder, tars in found.items():  # all that can be refused, before hours of reading
            refuse_manifest(folder)
            splits_by_name(tars)
    every = [tar for tars in found.values() for tar in tars]
    samples = sum(len(write_index(tar, num_classes)) for tar in track(every, "index"))
    if arguments.manifest:
        for folder, tars in found.items():
            write_foreign_manifest(folder, tars, classes)
    print(f"{len(every)} shards, {samples} samples" + (f", {len(classes)} classes" if classes else ""))
    return 0


def _tars(folder: Path) -> list[Path]:
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(f"{folder} {'holds no .tar file' if folder.is_dir() else 'is not a folder'}.")
    return tars

"""`iwin bench index`: what the index and the order of a very large data set cost, in seconds and in memory.

The data set is made up: index files in full, and shards that are holes of the right size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from iwin.batch import Batch
from iwin.data.index import BLOCK, HEADER, MAGIC, VERSION, index_path
from iwin.data.manifest import write_manifest
from iwin.data.module import hand_over
from iwin.data.order import GlobalShuffle
from iwin.data.sampler import Ticket, TrainSampler
from iwin.data.shards import ShardDataset, ShardFolder
from iwin.errors import whole

CLASSES = 21841
IMAGE_BYTES = 215 * BLOCK  # about 110 KB
BATCH = 128
POLL_S = 0.1
MEGABYTE = 1e6


class Figures(NamedTuple):
    """Of one set of processes. seconds: to open and check the data set, and to permute it, of the slowest rank.

    megabytes: the largest sum of all processes' memory that was seen, shared pages counted once (PSS).
    """

    open_s: float
    order_s: float
    megabytes: float


def add_command(commands: Any) -> None:
    """Add `index` to the commands of `iwin bench`."""
    index = commands.add_parser(
        "index",
        help="the index of a very large data set: seconds to open, memory over all processes",
        description="Make the index files of a data set of N samples, open it in as many processes as given, each "
        "with its data workers, and look up batches in its order; beside the same with a data set of one shard. "
        "Linux alone tells the memory of processes that share pages.",
    )
    index.add_argument("--samples", type=int, default=14_200_000, metavar="N", help="(default: 14200000)")
    index.add_argument("--samples-per-shard", type=int, default=2400, metavar="N", help="(default: 2400)")
    index.add_argument("--ranks", type=int, default=4, metavar="N", help="processes that train (default: 4)")
    index.add_argument("--workers", type=int, default=2, metavar="N", help="data workers of each (default: 2)")
    index.add_argument("--batches", type=int, default=50, metavar="N", help="looked up by each rank (default: 50)")
    index.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    index.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `iwin bench index`. Raises ConfigError for numbers that cannot be used."""
    for name, least in (("samples", 1), ("samples_per_shard", 1), ("ranks", 1), ("workers", 0), ("batches", 1)):
        whole("--" + name.replace("_", "-"), getattr(arguments, name), least)
    with tempfile.TemporaryDirectory(prefix="iwin-bench-") as folder:
        big, small = Path(folder) / "big", Path(folder) / "small"
        per_shard = min(arguments.samples_per_shard, arguments.samples)
        _make(big, arguments.samples, per_shard)
        _make(small, BATCH * arguments.ranks, BATCH * arguments.ranks)
        processes = (arguments.ranks, arguments.workers, arguments.batches)
        without, with_index = measure(small, *processes), measure(big, *processes)
    added = with_index.megabytes - without.megabytes
    print(f"{arguments.samples} samples, {arguments.ranks} ranks with {arguments.workers} data workers each")
    print(f"  open and check   {with_index.open_s:8.2f} s")
    print(f"  order of epoch   {with_index.order_s:8.2f} s")
    print(f"  memory           {with_index.megabytes:8.0f} MB over all processes at most (PSS)")
    print(f"  of it for index and order {added:.0f} MB, {added * MEGABYTE / arguments.samples:.1f} bytes a sample")
    if arguments.json is not None:
        figures = {"samples": arguments.samples, "added_megabytes": added, **with_index._asdict()}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _make(root: Path, samples: int, per_shard: int) -> None:
    """Index files of `samples` samples, with shards that take no space on the disk."""
    root.mkdir()
    shards = []
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, samples, per_shard)):
        count = min(per_shard, samples - start)
        tar = root / f"train-{number:05d}.tar"
        size = (count + 1) * IMAGE_BYTES
        digest = number.to_bytes(32, "big")
        keys = b"".join(b"n%08d_%08d" % (start % CLASSES, start + row) for row in range(count))
        ends = np.arange(1, count + 1, dtype="<u4") * (len(keys) // count)
        with index_path(tar).open("wb") as file:
            file.write(HEADER.pack(MAGIC, VERSION, count, size, digest, len(keys)))
            file.write((np.arange(count, dtype="<u4") * (IMAGE_BYTES // BLOCK)).tobytes())
            file.write(np.full(count, IMAGE_BYTES, dtype="<u4").tobytes())
            file.write(rng.integers(0, CLASSES, count, dtype="<i4").tobytes())
            file.write(ends.tobytes() + keys)
        with tar.open("wb") as file:
            file.truncate(size)
        shards.append({"name": tar.name, "samples": count, "bytes": size, "sha256": digest.hex()})
    splits = {"train": {"samples": samples, "shards": shards}}
    write_manifest(root, [f"n{label:08d}" for label in range(CLASSES)], splits, {"source": "iwin bench index"})


class LookedUp(ShardDataset):
    """Everything about a sample but its pixels, which are not there."""

    def __getitems__(self, ticket: Ticket) -> Batch:
        targets = []
        for index in ticket.indices.tolist():
            shard, row = self._locate(index)
            assert shard.offset(row) + int(shard.sizes[row]) <= shard.tar_size
            targets.append(self.label(index))
        indices = torch.from_numpy(ticket.indices.astype(np.int64))
        return Batch(torch.empty(0), torch.tensor(targets), indices, ticket.position)


def measure(root: Path, ranks: int, workers: int, batches: int) -> Figures:
    """Open `root` in `ranks` processes with `workers` each, and look up `batches` batches in each of them."""
    spawn = multiprocessing.get_context("spawn")
    times, barrier = spawn.SimpleQueue(), spawn.Barrier(ranks + 1)
    children = [
        spawn.Process(target=_rank, args=(root, rank, ranks, workers, batches, times, barrier)) for rank in range(ranks)
    ]
    for child in children:
        child.start()
    most = 0.0
    while barrier.n_waiting < ranks:
        if any(child.exitcode is not None for child in children):
            raise RuntimeError("a rank ended before its time; its error is above")
        most = max(most, _megabytes([child.pid for child in children if child.pid]))
        time.sleep(POLL_S)
    most = max(most, _megabytes([child.pid for child in children if child.pid]))
    barrier.wait()
    rows = [times.get() for _ in children]
    for child in children:
        child.join()
    return Figures(max(row[0] for row in rows), max(row[1] for row in rows), most)


def _rank(root: Path, rank: int, ranks: int, workers: int, batches: int, times: Any, barrier: Barrier) -> None:
    """One rank: open, permute, and look up batches through its workers, as training does."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    dataset = LookedUp(ShardFolder(root), "train-*.tar", _no_pixels, 0)
    dataset.class_counts()
    opened = time.perf_counter()
    shuffle = GlobalShuffle(len(dataset))
    shuffle.order(0, 0, 0)
    ordered = time.perf_counter()
    sampler = TrainSampler(shuffle, batch_size=BATCH, world=ranks, rank=rank, accumulation=1, seed=0)
    # As in training, the workers are there while the order of the epoch is made.
    sampled: Any = sampler
    collate: Any = hand_over
    loader = DataLoader(
        dataset, batch_sampler=sampled, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
    )
    held = iter(loader)
    for _ in range(min(batches, len(sampler))):
        next(held)
    times.put((opened - began, ordered - opened))
    barrier.wait()


def _no_pixels(image: object) -> np.ndarray:
    raise AssertionError(f"{image} has no pixels")


def _megabytes(roots: list[int]) -> float:
    """The memory of these processes and all below them, a shared page counted once over its sharers (PSS)."""
    total = 0
    for pid in _with_children(roots):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended just now
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total * 1024 / MEGABYTE


def _with_children(pids: list[int]) -> list[int]:
    found = list(pids)
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found

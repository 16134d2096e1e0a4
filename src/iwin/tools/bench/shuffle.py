"""`iwin bench shuffle`: how well the block shuffle mixes, beside the global one."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from iwin.data.order import BlockShuffle, GlobalShuffle, neighbour_distance
from iwin.errors import whole

EPOCHS = 3


def add_command(commands: Any) -> None:
    """Add `shuffle` to the commands of `iwin bench`."""
    shuffle = commands.add_parser(
        "shuffle",
        help="how well data.shuffle=block mixes",
        description="For each number of open shards, how far apart in the data set two samples lie that training "
        "sees one after the other, and how many of a batch come from one shard. ImageNet-1K by default.",
    )
    shuffle.add_argument("--samples", type=int, default=1_281_167, metavar="N", help="(default: 1281167)")
    shuffle.add_argument("--samples-per-shard", type=int, default=2340, metavar="N", help="(default: 2340)")
    shuffle.add_argument("--batch", type=int, default=1024, metavar="N", help="the global batch (default: 1024)")
    shuffle.add_argument("--open", type=int, nargs="+", default=[1, 4, 16, 64], metavar="K", help="open shards")
    shuffle.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `iwin bench shuffle`. Raises ConfigError for numbers that cannot be used."""
    samples, per_shard = arguments.samples, whole("--samples-per-shard", arguments.samples_per_shard, 1)
    batch = whole("--batch", arguments.batch, 1)
    ends = np.minimum(np.arange(per_shard, whole("--samples", samples, batch) + per_shard, per_shard), samples)
    print(f"{samples} samples in {len(ends)} shards, batches of {batch}, means over {EPOCHS} epochs")
    print("open shards   distance of neighbours   shards in a batch   most of a batch from one shard")
    for count in [*(whole("--open", count, 1) for count in arguments.open), 0]:
        shuffle = BlockShuffle(ends, count) if count else GlobalShuffle(samples)
        orders = [shuffle.order(0, 0, epoch) for epoch in range(EPOCHS)]
        distance = float(np.mean([neighbour_distance(visited) for visited in orders]))
        shards, most = np.mean([_shards_in_batches(visited, ends, batch) for visited in orders], axis=0)
        print(f"{count or 'all (global)':<12}   {distance:>19.1%}      {shards:>14.1f}      {most / batch:>20.1%}")
    return 0


def _shards_in_batches(visited: np.ndarray, ends: np.ndarray, batch: int) -> tuple[float, float]:
    """Over the batches of an epoch, the mean number of shards in one, and of the samples from its commonest shard."""
    shards = np.searchsorted(ends, visited[: len(visited) // batch * batch], side="right").reshape(-1, batch)
    counts = [np.unique(row, return_counts=True)[1] for row in shards]
    return float(np.mean([len(one) for one in counts])), float(np.mean([one.max() for one in counts]))

"""`iwin shards` as a function, and what it has written."""

from __future__ import annotations

import argparse
from pathlib import Path

from iwin.data.shards import ShardDataset, ShardFolder
from iwin.tools.shards import add_parser


def iwin(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    arguments = parser.parse_args([str(word) for word in words])
    return arguments.func(arguments)


def content(root: Path, split: str) -> dict[bytes, int]:
    data = ShardDataset(ShardFolder(root), f"{split}-*.tar", None, None)
    return {data.read(i): int(data.labels[i]) for i in range(len(data))}

"""What the ranks of a run agree upon: that they are one run, and when it stops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from iwin.errors import ConfigError

NAMED = 5  # differences in the error
MISSING = "nothing"  # where one rank has a key that another one has not
PLACES = ("root", "root_env", "cache_dir")  # where a data set lies: nodes may differ in it


class HostGroup:
    """All ranks, talking through their hosts: nothing here waits for a device. For one rank, no talk at all.

    Every rank makes it and calls its methods in the same order, once torch.distributed is up.
    """

    def __init__(self) -> None:
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        self._group: Any = dist.new_group(backend="gloo") if self.ranks > 1 else None

    def begin_largest(self, value: int) -> Pending:
        """Begin to find the largest `value` of all ranks, and go on meanwhile."""
        values = torch.tensor([value], dtype=torch.int64)
        work = None
        if self._group is not None:
            work = dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        return Pending(values, work)

    def largest(self, value: int) -> int:
        """The largest `value` of all ranks."""
        return self.begin_largest(value).result()

    def smallest(self, value: int) -> int:
        """The smallest `value` of all ranks."""
        return -self.largest(-value)


class Pending:
    """A number that the ranks are finding."""

    def __init__(self, values: torch.Tensor, work: Any) -> None:
        self._values, self._work = values, work

    def result(self) -> int:
        """Wait for the slowest rank."""
        if self._work is not None:
            self._work.wait()
        return int(self._values[0])


class OneRun(Callback):
    """Before anything is set up, compares what each rank is about to run.

    facts: plain values by name, nested as they like: the configuration, the data set with the hashes of its
        content, the version of the code. Where a data set lies may differ.

    Raises:
        ConfigError: on every rank, where one has other facts than rank 0; it names the rank and what differs.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = facts

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            compare(self.facts)


def compare(facts: Mapping[str, Any]) -> None:
    """Raise ConfigError on every rank where the facts differ; see OneRun. All ranks call it."""
    flat = dict(flatten(facts, without=PLACES))
    digest = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()
    if len(set(_gathered(digest))) > 1:  # only now all of it, which may be large
        raise ConfigError(_difference(_gathered(flat)))


def _gathered(value: Any) -> list[Any]:
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _difference(flats: list[dict[str, str]]) -> str:
    """What the first rank that is unlike rank 0 has, in words."""
    first = flats[0]
    rank, other = next((rank, flat) for rank, flat in enumerate(flats) if flat != first)
    return (
        f"rank {rank} is about to run something else than rank 0: {named_differences(other, first, 'at rank 0')}. "
        "Start all ranks with one command, from one version of the code, on the same data."
    )


def named_differences(here: Mapping[str, str], there: Mapping[str, str], where: str) -> str:
    """Where two flat mappings differ, in words, the first few; empty where they do not. where: is what `there` has."""
    keys = [key for key in {**there, **here} if here.get(key, MISSING) != there.get(key, MISSING)]
    named = [f"{key} is {here.get(key, MISSING)}, {where} {there.get(key, MISSING)}" for key in keys[:NAMED]]
    return "; ".join(named) + (f"; and {len(keys) - NAMED} more differences" if len(keys) > NAMED else "")


def flatten(node: Any, place: str = "", *, without: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Every value below `node` as text, by its dotted place; nothing of the keys in `without`."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key not in without:
                yield from flatten(value, f"{place}.{key}" if place else str(key), without=without)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from flatten(value, f"{place}[{index}]", without=without)
    else:
        yield place, repr(node)

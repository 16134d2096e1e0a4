"""Measures several endless iterators of batches against each other, taking turns."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import torch


class Spread(NamedTuple):
    """The median over the rounds, and the smallest and largest."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of one value for each round."""
        return cls(statistics.median(values), min(values), max(values))


class Turns(NamedTuple):
    """What was measured of one way. images: it delivered in all rounds together.

    worked: the seconds of each round that a core worked for this process, all its threads together: on an idle
    machine those by the clock, and on a busy one no more than on an idle one, but for shared caches and memory.
    passed: by the clock.
    """

    images: int
    worked: list[float]
    passed: list[float]

    @property
    def images_per_second(self) -> list[float]:
        """Of a core's work, for each round."""
        return [self.images / len(self.worked) / seconds for seconds in self.worked]

    @property
    def share(self) -> float:
        """Of the time by the clock, how much the core worked for this: below 1 where others ran on it."""
        return sum(self.worked) / sum(self.passed)


@contextmanager
def one_core() -> Iterator[bool]:
    """This process on one core with one thread in every library. Yields whether the system could pin it there."""
    threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None  # Linux alone has it
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if cores is not None:
        os.sched_setaffinity(0, {max(cores)})  # the first cores are the ones that systems use most
    try:
        yield cores is not None
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(opencv_threads)
        if cores is not None:
            os.sched_setaffinity(0, cores)


def take_turns(ways: Mapping[str, Iterator[Any]], rounds: int, batches: int) -> dict[str, Turns]:
    """Take `rounds` times `batches` batches from each; a batch is a tuple with the images (B, ...) first.

    The turns change after every batch, so that whatever else the machine does meets all alike; one batch of each
    comes before and is not counted.
    """
    for way in ways.values():
        next(way)
    images = dict.fromkeys(ways, 0)
    worked = {name: [0.0] * rounds for name in ways}
    passed = {name: [0.0] * rounds for name in ways}
    for turn in range(rounds):
        for _ in range(batches):
            for name, way in ways.items():
                clock, work = time.perf_counter(), time.process_time()
                batch = next(way)
                worked[name][turn] += time.process_time() - work
                passed[name][turn] += time.perf_counter() - clock
                images[name] += len(batch[0])
    return {name: Turns(images[name], worked[name], passed[name]) for name in ways}


def ratios(ours: Turns, other: Turns) -> list[float]:
    """How many images `ours` makes for one of `other`, round for round."""
    return [theirs / own for own, theirs in zip(ours.worked, other.worked, strict=True)]

"""Mean and spread of a few numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Statistic:
    """Of n numbers the mean and the sample standard deviation, which one number has none of."""

    mean: float
    spread: float | None
    n: int


def statistic(values: Iterable[float | None]) -> Statistic | None:
    """The statistic of the values that are there; None where none is."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return Statistic(statistics.fmean(there), statistics.stdev(there) if len(there) > 1 else None, len(there))

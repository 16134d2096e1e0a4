"""A metric over the epochs, of all rows in one picture: a colour a row, its seeds thin, their mean thick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iwin.tools.report.runs import METRICS
from iwin.tools.report.sections import Section
from iwin.tools.report.style import Look, legend_below, look, panel
from iwin.train.metrics_csv import read_metrics

MOST_DRAWN = 2000  # points of a line: more than a picture has pixels for
FEW = 40  # points up to which a line has markers
Log = dict[str, np.ndarray]
Logs = dict[Path, Log]


@dataclass(frozen=True)
class Line:
    """One run's metric: (n,) updates, (n,) epochs done at each, and (n,) values, all finite."""

    updates: np.ndarray
    epochs: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Bundle:
    """The lines of a row, at least one; `counted` are those of the runs that the table's mean is of, or all."""

    label: str
    look: Look
    lines: tuple[Line, ...]
    counted: tuple[Line, ...]


def logs(section: Section) -> Logs:
    """The logs of the section's runs that have one, finished or not. DataError for a damaged one."""
    runs = [cell.run for row in section.rows for cell in row.cells if cell.run is not None]
    return {run.folder: read_metrics(run.folder / METRICS) for run in runs if (run.folder / METRICS).is_file()}


def bundles(section: Section, found_logs: Logs, metric: str, *, smooth: bool = False) -> list[Bundle]:
    """The rows with a run that logged the metric.

    smooth: take the mean of a fortieth of the rows around each, as a batch's loss says little.
    """
    found = []
    for index, row in enumerate(section.rows):
        runs = [cell.run for cell in row.cells if cell.run is not None and cell.run.folder in found_logs]
        lines = {run.folder: line_of(found_logs[run.folder], metric, smooth=smooth) for run in runs}
        there = {folder: line for folder, line in lines.items() if line is not None}
        counted = [there[cell.run.folder] for cell in row.counted if cell.run is not None and cell.run.folder in there]
        if there:
            found.append(Bundle(row.label, look(index), tuple(there.values()), tuple(counted or there.values())))
    return found


def line_of(log: Log, metric: str, *, smooth: bool) -> Line | None:
    """The metric of a log; None where none was logged."""
    # The last update of an epoch is logged with its validation: so an epoch's updates are the largest quotient.
    per_epoch = np.max(log["step"] / (log["epoch"] + 1), initial=0.0)
    there = np.isfinite(log[metric]) if metric in log else np.zeros(0, dtype=bool)
    if not there.any() or per_epoch == 0:
        return None
    updates, values = log["step"][there], log[metric][there]
    if smooth:
        values = running_mean(values, len(values) // 40 | 1)
    every = slice(None, None, -(-len(values) // MOST_DRAWN))
    return Line(updates[every], (updates / per_epoch)[every], values[every])


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of `width` (odd) values around each, of fewer at the ends. (n,) -> (n,)"""
    around = slice(width // 2, width // 2 + len(values))
    sums, counts = (np.convolve(one, np.ones(width))[around] for one in (values, np.ones(len(values))))
    return sums / counts


def mean_line(lines: Sequence[Line]) -> Line | None:
    """The mean at the updates that all lines have; None where they share none."""
    shared = lines[0].updates
    for line in lines[1:]:
        shared = np.intersect1d(shared, line.updates)
    if not len(shared):
        return None
    picked = [np.searchsorted(line.updates, shared) for line in lines]
    values = np.mean([line.values[at] for line, at in zip(lines, picked, strict=True)], axis=0)
    return Line(shared, lines[0].epochs[picked[0]], values)


def draw_curves(found: Sequence[Bundle], title: str, y: str, swept: str, scale: float = 1.0) -> Figure:
    """The picture of at least one bundle; values are drawn times `scale`."""
    figure, axes = panel(title, "epochs", y)
    for bundle in found:
        colour, style = bundle.look.colour, bundle.look.line
        mean = mean_line(bundle.counted)
        for line in bundle.lines if len(bundle.lines) > 1 else ():
            axes.plot(line.epochs, scale * line.values, color=colour, linestyle=style, linewidth=0.8, alpha=0.45)
        thick = mean if mean is not None else bundle.counted[0]
        axes.plot(
            thick.epochs, scale * thick.values, color=colour, linestyle=style, linewidth=1.8, label=bundle.label,
            marker=bundle.look.marker if len(thick.values) <= FEW else "", markersize=4,
        )  # fmt: skip
    values = np.concatenate([line.values for bundle in found for line in bundle.lines])
    if scale == 1.0 and values.min() > 0 and values.max() / values.min() > 20:
        axes.set_yscale("log")
    last = max(line.epochs.max() for bundle in found for line in bundle.lines)
    axes.set_xlim(0, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=last >= 4))
    legend_below(figure, axes, swept)
    return figure

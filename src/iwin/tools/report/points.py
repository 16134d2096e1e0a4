"""Accuracy against what it costs: ours with error bars over seeds, the paper's hollow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from iwin.tools.report.labels import Named, write_names
from iwin.tools.report.rows import Row
from iwin.tools.report.sections import Section
from iwin.tools.report.statistic import Statistic
from iwin.tools.report.style import GREY, Look, legend_below, look, panel

MOST_NAMED = 12  # points that have their names beside them; more have a legend
MOST_CHARACTERS = 26  # of a name beside a point
WIDE = 8.0  # the ratio of the largest cost to the smallest from which the axis is logarithmic
MANY_DECADES = 1000.0  # the ratio from which only powers of ten are written


@dataclass(frozen=True)
class Point:
    """A row's place in a picture. `hollow`: the paper's."""

    label: str
    look: Look
    x: Statistic
    y: Statistic
    hollow: bool = False


def our_points(section: Section, cost: Callable[[Row], Statistic | None]) -> list[Point]:
    """The rows of which both the accuracy and the cost are known."""
    found = []
    for index, row in enumerate(section.rows):
        x, y = cost(row), row.top1
        if x is not None and y is not None and x.mean > 0:
            found.append(Point(row.label, look(index), x, y))
    return found


def paper_points(section: Section, cost: Callable[[Row], float | None]) -> list[Point]:
    """The paper's accuracies of the rows of which it has one, and a cost."""
    found = []
    for index, row in enumerate(section.rows):
        x = cost(row)
        if row.paper is not None and x is not None:
            found.append(
                Point(row.label, look(index), Statistic(x, None, 1), Statistic(row.paper.top1, None, 1), hollow=True)
            )
    return found


def draw_points(points: Sequence[Point], title: str, x: str, swept: str) -> Figure:
    """The picture of at least one point. swept: what the labels are values of; may be empty."""
    figure, axes = panel(title, x, "top-1 (%)")
    named: dict[str, Named] = {}
    for point in points:
        axes.errorbar(
            point.x.mean, point.y.mean, xerr=point.x.spread, yerr=point.y.spread, fmt="none",
            ecolor=point.look.colour, capsize=3, elinewidth=1, zorder=2,
        )  # fmt: skip
        first = point.label not in named  # the paper's looks as ours, but hollow: one name says which row both are
        axes.plot(
            point.x.mean, point.y.mean, point.look.marker, color=point.look.colour, markersize=8, zorder=3,
            markerfacecolor="white" if point.hollow else point.look.colour, markeredgewidth=1.5,
            label=point.label if first else None,
        )  # fmt: skip
        spreads = (point.x.spread or 0.0, point.y.spread or 0.0)
        name = point.label if first else ""
        named[name or f"{point.label}, hollow"] = Named(point.x.mean, point.y.mean, name, point.look.colour, *spreads)
    _x_axis(axes, points)
    _y_axis(axes, points)
    short = max(len(one.name) for one in named.values()) <= MOST_CHARACTERS
    many = sum(bool(one.name) for one in named.values()) > MOST_NAMED
    if many or not short or not write_names(figure, axes, list(named.values())):
        legend_below(figure, axes, swept)
        swept = ""
    mixed = len({point.hollow for point in points}) > 1
    said = [swept, "hollow: the paper" if mixed else ""]
    axes.set_title("; ".join(word for word in said if word), fontsize=9, loc="right", color=GREY)
    return figure


def _x_axis(axes: Axes, points: Sequence[Point]) -> None:
    """Room at both sides for names; logarithmic where the costs lie far apart; numbers as 4.7 G."""
    low = min(point.x.mean - (point.x.spread or 0.0) for point in points)
    high = max(point.x.mean + (point.x.spread or 0.0) for point in points)
    if low > 0 and high / low >= WIDE:
        axes.set_xscale("log")
        margin = (high / low) ** 0.2
        axes.set_xlim(low / margin, high * margin)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < MANY_DECADES else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = max(0.25 * (high - low), 0.02 * abs(high))
        axes.set_xlim(low - margin, high + margin)
        axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))


def _y_axis(axes: Axes, points: Sequence[Point]) -> None:
    low = min(point.y.mean - (point.y.spread or 0.0) for point in points)
    high = max(point.y.mean + (point.y.spread or 0.0) for point in points)
    margin = max(0.15 * (high - low), 0.1)
    ticks = MaxNLocator(nbins=7).tick_values(low - margin, high + margin)
    axes.set_yticks([tick for tick in ticks if tick <= 100])  # the room above is for names
    axes.set_ylim(low - margin, high + margin)
    axes.ticklabel_format(axis="y", useOffset=False)

"""How rows look in every picture of a report: a colour, a line and a marker each, the same throughout."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# Okabe-Ito, which people with any colour vision tell apart; the pale yellow last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
GREY = "#666666"
DPI = 160
MOST_CHARACTERS = 44  # of a row's label in a legend


@dataclass(frozen=True)
class Look:
    """How one row is drawn."""

    colour: str
    line: str
    marker: str


def look(index: int) -> Look:
    """The look of the row at `index`: eight colours, then the same ones with other lines and markers."""
    turn, colour = divmod(index, len(COLOURS))
    return Look(COLOURS[colour], LINES[turn % len(LINES)], MARKERS[(colour + 3 * turn) % len(MARKERS)])


def panel(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, named."""
    figure = Figure(figsize=(6.6, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title, fontsize=12, fontweight="bold", loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend_below(figure: Figure, axes: Axes, title: str) -> None:
    """A legend under the axes, in as many columns as its longest name leaves room for; the figure grows by it."""
    handles, labels = axes.get_legend_handles_labels()
    shortened = [textwrap.shorten(label, MOST_CHARACTERS, placeholder="…") or label for label in labels]
    columns = max(1, min(4, 84 // (max(map(len, shortened)) + 8)))
    rows = -(-len(labels) // columns) + bool(title)
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    figure.legend(
        handles, shortened, loc="outside lower center", ncols=columns, fontsize=9, title=title or None,
        title_fontsize=9, frameon=False,
    )  # fmt: skip


def png(figure: Figure) -> bytes:
    """The picture's bytes, on white."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, facecolor="white")
    return out.getvalue()

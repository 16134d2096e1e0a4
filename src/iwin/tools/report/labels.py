"""Names beside points, placed so that none covers another, a point, or the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

FREE = 5.0  # around a point, in points of 1/72 inch
BAR = 3.0  # around an error bar and its caps
# Where a name may stand, in points from its point, the best first: how far right, how far up, and its alignment.
NEAR = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (6, 6, "left", "bottom"),
    (6, -6, "left", "top"),
    (-6, 6, "right", "bottom"),
    (-6, -6, "right", "top"),
)
FAR = tuple((scale * x, scale * y, h, v) for scale in (2.5, 4, 6) for x, y, h, v in NEAR)


@dataclass(frozen=True)
class Named:
    """A point in the data's coordinates, its name, its colour, and half the length of its error bars.

    One without a name only takes its place.
    """

    x: float
    y: float
    name: str
    colour: str
    x_spread: float = 0.0
    y_spread: float = 0.0


def write_names(figure: Figure, axes: Axes, points: Sequence[Named]) -> bool:
    """Write every name beside its point; False, with none written, where one finds no place.

    The axes must have their final limits and scale. A name that stands further off has a thin line to its point.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # so that the layout is what it will be
    frame = axes.get_window_extent()
    taken = [box for point in points for box in _boxes(axes, point, figure.dpi / 72)]
    written: list[Annotation] = []
    for point in points:
        if not point.name:
            continue
        for place in (*NEAR, *FAR):
            note = _write(axes, point, place)
            box = note.get_window_extent(canvas.get_renderer())
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                written.append(note)
                if place in FAR:
                    written.append(_tie(axes, point, place))
                break
            note.remove()
        else:
            for note in written:
                note.remove()
            return False
    return True


def _boxes(axes: Axes, point: Named, scale: float) -> list[Bbox]:
    """What a point and its two error bars cover, in pixels; scale: of a point of 1/72 inch."""
    to_pixels = axes.transData.transform
    x, y = to_pixels((point.x, point.y))
    left, low = to_pixels((point.x - point.x_spread, point.y - point.y_spread))
    right, high = to_pixels((point.x + point.x_spread, point.y + point.y_spread))
    free, bar = FREE * scale, BAR * scale
    return [
        Bbox.from_extents(x - free, y - free, x + free, y + free),
        Bbox.from_extents(left - bar, y - bar, right + bar, y + bar),
        Bbox.from_extents(x - bar, low - bar, x + bar, high + bar),
    ]


def _write(axes: Axes, point: Named, place: tuple[float, float, str, str]) -> Annotation:
    right, up, horizontal, vertical = place
    return axes.annotate(
        point.name, (point.x, point.y), xytext=(right, up), textcoords="offset points", ha=horizontal, va=vertical,
        fontsize=9, color="#222222",
    )  # fmt: skip


def _tie(axes: Axes, point: Named, place: tuple[float, float, str, str]) -> Annotation:
    return axes.annotate(
        "", (point.x, point.y), xytext=place[:2], textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": point.colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
    )  # fmt: skip

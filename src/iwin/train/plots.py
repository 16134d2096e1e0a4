"""Pictures of a run: its curves, its confusions, its mistakes.

Figures are made without pyplot, so that drawing needs no display and leaves no state behind. Colours are of
the Okabe-Ito set, which people with any colour vision tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from iwin.errors import DataError
from iwin.train.metrics_csv import read_metrics

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
ERROR_COLOURS = ListedColormap(colormaps["Oranges"](np.linspace(0.35, 1.0, 256)))  # the palest would pass for white
MOST_WRITTEN = 20  # classes up to which a confusion's counts are written into its cells
SHEET_COLUMNS = 8


def curves(metrics_csv: Path, out: Path, title: str) -> None:
    """Loss, accuracy and learning rate of a run over its epochs, from its log, as the picture `out`.

    Raises DataError when the log is missing, damaged, or has no rows.
    """
    table = read_metrics(metrics_csv)
    if not len(table["step"]):
        raise DataError(f"{metrics_csv} has no rows yet: draw the curves once the run has logged an update")
    x, unit = _time_axis(table)
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    loss, accuracy, rate = figure.subplots(1, 3, gridspec_kw={"wspace": 0.06})
    _loss_panel(loss, x, table)
    _accuracy_panel(accuracy, x, table, unit)
    _rate_panel(rate, x, table)
    for panel in (loss, accuracy, rate):
        panel.set_xlabel(unit)
        panel.set_xlim(0, 1.02 * x.max())
        panel.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=x.max() >= 4))
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    _save(figure, out)


def confusion(counts: np.ndarray, classes: Sequence[str], out: Path, title: str) -> None:
    """Which classes are taken for which, as the picture `out`. Right and wrong have a colour scale each.

    One scale would show the diagonal alone: most pictures are on it. Colours are shares of a row, with the
    square root stretching the small ones. Up to 20 classes the counts are written in.

    counts: (K, K) integers; rows are the truth, columns the prediction.
    classes: the K names.
    """
    counts, size = np.asarray(counts), len(classes)
    if counts.shape != (size, size):
        raise ValueError(f"counts of shape {counts.shape} for {size} classes: give a ({size}, {size}) table")
    of_row = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, of_row, out=np.zeros(counts.shape), where=of_row > 0)
    diagonal = np.eye(size, dtype=bool)
    worst = share[~diagonal].max(initial=0.0)

    side = min(max(5.5, 0.55 * size + 2.5), 11.0)
    figure = Figure(figsize=(side + 2.2, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    # Nearest, without antialiasing: a lone confusion among a thousand classes keeps its full colour.
    wrong, right = (
        axes.imshow(np.ma.masked_where(hidden | (counts == 0), share), cmap=cmap, norm=norm, interpolation="nearest")
        for hidden, cmap, norm in (
            (diagonal, ERROR_COLOURS, PowerNorm(0.5, vmin=0.0, vmax=worst or 1.0)),
            (~diagonal, "Blues", Normalize(0.0, 1.0)),
        )
    )
    for scale, label in ((wrong, "wrong"), (right, "right")):
        if scale is right or worst > 0:
            bar = figure.colorbar(
                scale, ax=axes, shrink=0.75, pad=0.02, label=f"{label}: share of the class's pictures"
            )
            bar.formatter = FuncFormatter(lambda value, _: f"{100 * value:g} %")
            bar.update_ticks()
    if size <= MOST_WRITTEN:
        _write_counts(axes, counts, share, worst)
        names = [_short(name, 20) for name in classes]
        axes.set_xticks(range(size), names, rotation=0 if max(map(len, names)) <= 3 else 90)
        axes.set_yticks(range(size), names)
    total, good = int(counts.sum()), int(np.trace(counts))
    result = f"{good:,} of {total:,} right ({100 * good / total:.2f} %)" if total else "no pictures"
    axes.set_title(f"{title}\n{result}", fontsize=12)
    axes.set_xlabel("prediction" if size <= MOST_WRITTEN else "prediction (class index)")
    axes.set_ylabel("truth" if size <= MOST_WRITTEN else "truth (class index)")
    _save(figure, out)


def contact_sheet(
    images: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    keys: Sequence[str],
    classes: Sequence[str],
    out: Path,
    title: str,
    limit: int = 40,
) -> None:
    """The pictures that were misclassified, the most confident mistake first, as the picture `out`.

    images: (N, H, W, 3) uint8; those that were classified rightly are left out, and may be so before.
    truth, predicted: (N,) class indices.
    confidence: (N,) the probability of the prediction, 0..1.
    keys: N names of the samples, to find them again.
    limit: the most pictures to show.
    """
    wrong = np.flatnonzero(truth != predicted)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    columns = min(max(len(order), 3), SHEET_COLUMNS)  # of three at least, so that the title has its width
    rows = max(1, math.ceil(len(order) / columns))
    figure = Figure(figsize=(1.9 * columns, 2.5 * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    said = f"misclassified pictures, the most confident mistake first: {len(order)}"
    if len(order) < len(wrong):
        said += f" of {len(wrong):,}"
    figure.suptitle(f"{title}\n{said}" if len(order) else title, fontsize=13)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.set_axis_off()
    for cell, i in zip(cells, order, strict=False):
        cell.imshow(images[i], interpolation="nearest")
        cell.set_title(_mistake(classes[truth[i]], classes[predicted[i]], confidence[i]), fontsize=9)
        cell.text(
            0.5, -0.04, _short_key(keys[i]), transform=cell.transAxes, ha="center", va="top", fontsize=7, color=GREY
        )
    if not len(order):
        figure.text(0.5, 0.4, "no picture was misclassified", ha="center", va="center", fontsize=16, color=GREEN)
    _save(figure, out)


def _save(figure: Figure, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130, facecolor="white", bbox_inches="tight", pad_inches=0.15)


def _time_axis(table: dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """Epochs done at each row; updates while no epoch is known to be complete.

    The last update of an epoch is logged, with its validation: so updates per epoch is the largest of
    step / (epoch + 1), any row within an epoch giving less.
    """
    if np.nanmax(table["epoch"], initial=0.0) < 1 and not any(name.startswith("val/") for name in table):
        return table["step"], "updates"
    if not table["step"].any():  # weights that were validated, and nothing trained yet
        return table["step"], "updates"
    return table["step"] / np.nanmax(table["step"] / (table["epoch"] + 1)), "epochs"


def _points(x: np.ndarray, table: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a metric that was logged; not those where it is empty, NaN or infinite."""
    y = table.get(name, np.full(len(x), np.nan))
    there = np.isfinite(y)
    return x[there], y[there]


def _smooth(y: np.ndarray, width: int) -> np.ndarray:
    """The mean of `width` values around each, of fewer at the ends."""
    ones = np.ones(width)
    return np.convolve(y, ones, "same") / np.convolve(np.ones(len(y)), ones, "same")


def _loss_panel(axes: Axes, x: np.ndarray, table: dict[str, np.ndarray]) -> None:
    train_x, train = _points(x, table, "train/loss")
    val_x, val = _points(x, table, "val/loss")
    width = len(train) // 40 | 1  # odd, so that the mean is centred
    if width >= 3:
        axes.plot(train_x, train, color=BLUE, linewidth=0.7, alpha=0.35, label="train")
        axes.plot(train_x, _smooth(train, width), color=BLUE, linewidth=2, label=f"train, mean of {width} rows")
    elif len(train):
        axes.plot(train_x, train, color=BLUE, linewidth=1.5, marker=".", label="train")
    if len(val):
        axes.plot(val_x, val, color=RED, linewidth=1, marker="o", markersize=_marker(val), label="validation")
    both = np.concatenate([train, val])
    if len(both) and both.min() > 0 and both.max() / both.min() > 20:
        axes.set_yscale("log")
    axes.set_title("loss")
    axes.set_ylabel("cross-entropy (nats)")
    _legend_or_say(axes, "no loss was logged")


def _accuracy_panel(axes: Axes, x: np.ndarray, table: dict[str, np.ndarray], unit: str) -> None:
    """Top-1 and top-5 in %; a star at the best, and the last value written beside the end of its curve."""
    ends = []
    for name, label, colour in (("val/top1", "top-1", BLUE), ("val/top5", "top-5", ORANGE)):
        at, y = _points(x, table, name)
        if not len(y):
            continue
        y, best = 100 * y, int(np.argmax(y))
        axes.plot(at, y, color=colour, linewidth=1.5, marker="o", markersize=_marker(y), label=f"validation {label}")
        where = f"{unit.removesuffix('s')} {at[best]:.4g}"
        axes.plot(
            at[best], y[best], color=colour, marker="*", markersize=14, markeredgecolor="black", linestyle="none",
            clip_on=False, zorder=3, label=f"best {label}: {y[best]:.2f} % ({where})",
        )  # fmt: skip
        ends.append((y[-1], colour))
    axes.set_title("accuracy")
    axes.set_ylabel("right (%)")
    axes.margins(y=0.1)
    _legend_or_say(axes, "no validation yet")
    if ends:
        axes.set_ylim(max(0.0, axes.get_ylim()[0]), min(100.5, axes.get_ylim()[1]))
    low, high = axes.get_ylim()
    apart, below = 0.06 * (high - low), math.inf
    for value, colour in sorted(ends, reverse=True):
        below = min(value, below - apart)  # two ends that lie close would be written over each other
        axes.annotate(
            f"last {value:.2f} %", (1.01, below), xycoords=("axes fraction", "data"), va="center", color=colour,
            fontsize=9, fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _rate_panel(axes: Axes, x: np.ndarray, table: dict[str, np.ndarray]) -> None:
    at, rate = _points(x, table, "lr")
    if len(rate):
        axes.plot(at, rate, color=GREEN, linewidth=2, marker="." if len(rate) < 20 else "", label="learning rate")
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.set_title("learning rate")
    axes.set_ylabel("learning rate of an update")
    _legend_or_say(axes, "no learning rate was logged")


def _legend_or_say(axes: Axes, nothing: str) -> None:
    """A legend where something was drawn; otherwise words, so that an empty panel is no riddle."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9, framealpha=0.85)
    else:
        axes.text(0.5, 0.5, nothing, transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_yticks([])


def _marker(y: np.ndarray) -> float:
    """Markers that stay apart: smaller as there are more."""
    return 6.0 if len(y) <= 30 else 3.0 if len(y) <= 120 else 0.0


def _write_counts(axes: Axes, counts: np.ndarray, share: np.ndarray, worst: float) -> None:
    """The counts, light on dark cells; zeros stay empty, so that errors stand out."""
    for i, j in zip(*np.nonzero(counts), strict=True):
        dark = share[i, j] > 0.55 if i == j else share[i, j] > 0.3 * worst
        axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=9, color="white" if dark else "black")


def _short(text: str, most: int) -> str:
    """`text`, its end cut off where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _short_key(key: str, most: int = 26) -> str:
    """`key`, its beginning cut off: the end is what tells samples apart."""
    return key if len(key) <= most else "…" + key[1 - most :]


def _mistake(truth: str, predicted: str, confidence: float) -> str:
    """`truth -> predicted (93 %)`, over two lines where the names are long."""
    line = f"{truth} -> {predicted} ({100 * confidence:.0f} %)"
    if len(line) <= 24:
        return line
    return f"{_short(truth, 24)}\n-> {_short(predicted, 15)} ({100 * confidence:.0f} %)"

"""The learning rate over a run: sampled from the real schedule, drawn in a terminal and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from iwin.errors import ConfigError
from iwin.train.optim import Optimizer
from iwin.train.plots import GREEN, GREY
from iwin.train.run_plan import RunPlan
from iwin.train.schedule import Schedule

POINTS = 480
COLUMNS, ROWS = 60, 6
EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Curve:
    """The largest rate of all parameters at some updates, from the first to the last. said: the schedule in words."""

    said: str
    updates: list[int]
    rates: list[float]


def sample(model: nn.Module, optimizer: Optimizer, schedule: Schedule, plan: RunPlan, points: int = POINTS) -> Curve:
    """The rates as training would set them. ConfigError where the schedule does not fit the run."""
    lengths = {"per_epoch": plan.per_epoch, "total": plan.total}
    schedule.check(**lengths)
    built = optimizer.build(model, plan.scale)
    scheduler = schedule.build(built, **lengths, scale=plan.scale)
    last = plan.total - 1
    corner = schedule.warmup_updates(**lengths)
    updates = sorted({round(index * last / (points - 1)) for index in range(points)} | {min(corner, last)})
    rates = []
    for update in updates:
        scheduler.step_update(update)
        rates.append(float(max(group["lr"] for group in built.param_groups)))
    return Curve(schedule.describe(**lengths, scale=plan.scale), updates, rates)


def draw(curve: Curve, columns: int = COLUMNS, rows: int = ROWS) -> list[str]:
    """Lines of block characters, the highest first; the full height is the highest rate, the bottom is 0.

    A column shows the highest rate of the updates in it.
    """
    most, end = max(curve.rates), curve.updates[-1] + 1
    heights = [0.0] * columns
    for update, rate in zip(curve.updates, curve.rates, strict=True):
        column = update * columns // end
        heights[column] = max(heights[column], rate / most if most else 0.0)
    for column in range(1, columns):  # a short run has fewer updates than there are columns
        if not any(update * columns // end == column for update in curve.updates):
            heights[column] = heights[column - 1]
    return [_line(heights, rows, row) for row in reversed(range(rows))]


def _line(heights: Sequence[float], rows: int, row: int) -> str:
    filled = (min(max(height * rows - row, 0.0), 1.0) for height in heights)
    return "".join(EIGHTHS[round(share * (len(EIGHTHS) - 1))] for share in filled).rstrip()


def picture(curve: Curve, plan: RunPlan, out: Path, title: str) -> None:
    """The same as the picture `out`, over epochs. ConfigError where it cannot be written."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([update / plan.per_epoch for update in curve.updates], curve.rates, color=GREEN, linewidth=2)
    axes.set_xlim(0, plan.epochs)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.set_xlabel("epochs")
    axes.set_ylabel("learning rate of an update")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    said = f"{curve.said}\n{plan.total:,} updates of {plan.global_batch:,} images"
    axes.set_title(said, fontsize=9, color=GREY)
    try:
        figure.savefig(out, dpi=130, facecolor="white", bbox_inches="tight", pad_inches=0.15)
    except (OSError, ValueError) as error:  # ValueError: an ending that is no picture's
        raise ConfigError(f"--png {out} cannot be written: {error}") from error

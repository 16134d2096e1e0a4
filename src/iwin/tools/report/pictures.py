"""The pictures of a section, and a sentence for each that has nothing to show."""

from __future__ import annotations

from dataclasses import dataclass

from iwin.tools.report.curves import bundles, draw_curves, logs
from iwin.tools.report.points import Point, draw_points, our_points, paper_points
from iwin.tools.report.rows import Row
from iwin.tools.report.sections import Section
from iwin.tools.report.style import png

FLOPS = "multiply-adds of an image"
SPEED = "images/s in training"


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows; `content` is empty where there is nothing, and `caption` says why."""

    name: str
    caption: str
    content: bytes = b""


def pictures(section: Section) -> list[Picture]:
    """Accuracy against FLOPs and throughput, accuracy and loss over the epochs. DataError for a damaged log."""
    return [*_against_flops(section), *_against_speed(section), *_curves(section)]


def _against_flops(section: Section) -> list[Picture]:
    """The paper's points in the same picture where they are of the same; in one of their own where not."""
    name, title = "accuracy-flops", "Accuracy against FLOPs"
    ours = our_points(section, lambda row: row.flops)
    same = paper_points(section, lambda row: _paper_flops(row) if row.comparable else None)
    other = paper_points(section, lambda row: None if row.comparable else _paper_flops(row))
    if ours:
        caption = "Top-1 against the multiply-adds of one image" + ("; hollow: the paper's." if same else ".")
        found = [Picture(name, caption, png(draw_points([*ours, *same], title, FLOPS, section.swept)))]
    else:
        found = [Picture(name, "No picture of accuracy against FLOPs: no finished run says both.")]
    if other:
        found.append(_of_paper("accuracy-flops-paper", "Accuracy against FLOPs in the paper", other, FLOPS, section))
    return found


def _against_speed(section: Section) -> list[Picture]:
    """The paper's throughput is of inference on another device, so never in the same picture."""
    name, title = "accuracy-throughput", "Accuracy against throughput"
    ours = our_points(section, lambda row: row.images_per_s)
    if ours:
        caption = "Top-1 against the images a second in training, of all devices together."
        found = [Picture(name, caption, png(draw_points(ours, title, SPEED, section.swept)))]
    else:
        found = [Picture(name, "No picture of accuracy against throughput: no finished run says both.")]
    of_paper = paper_points(
        section, lambda row: row.paper.ablation.images_per_s if row.paper and row.paper.ablation else None
    )
    if of_paper:
        x, title = "images/s in inference on a V100", "Accuracy against throughput in the paper"
        found.append(_of_paper("accuracy-throughput-paper", title, of_paper, x, section))
    return found


def _curves(section: Section) -> list[Picture]:
    found, found_logs = [], logs(section)
    accuracy = bundles(section, found_logs, "val/top1")
    if accuracy:
        content = png(draw_curves(accuracy, "Validation accuracy", "top-1 (%)", section.swept, scale=100.0))
        found.append(Picture("curve-accuracy", f"Top-1 in validation over the epochs{_thin(section)}.", content))
    else:
        found.append(Picture("curve-accuracy", "No curves of accuracy: no run has logged a validation."))
    loss = bundles(section, found_logs, "train/loss", smooth=True)
    if loss:
        content = png(draw_curves(loss, "Training loss", "loss", section.swept))
        found.append(Picture("curve-loss", f"Training loss over the epochs{_thin(section)}.", content))
    else:
        found.append(Picture("curve-loss", "No curves of the loss: no run has logged one."))
    return found


def _of_paper(name: str, title: str, points: list[Point], x: str, section: Section) -> Picture:
    caption = "The paper's own numbers, Iwin on ImageNet-1K at 224 pixels (Table VII)."
    return Picture(name, caption, png(draw_points(points, title, x, section.swept)))


def _paper_flops(row: Row) -> float | None:
    """Table VII's own count; of a recipe ours, as it is the same model."""
    if row.paper is None:
        return None
    if row.paper.ablation is not None:
        return 1e9 * row.paper.ablation.gflops
    return row.flops.mean if row.flops is not None and row.comparable else None


def _thin(section: Section) -> str:
    return "; thin: single seeds, thick: their mean" if any(len(row.cells) > 1 for row in section.rows) else ""

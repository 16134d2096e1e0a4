"""The report as one CSV: a line for each row of the tables, and one for each run of it, in full precision."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from iwin.tools.report.cells import Cell
from iwin.tools.report.marks import marks
from iwin.tools.report.rows import Row
from iwin.tools.report.sections import Section
from iwin.tools.report.statistic import Statistic

# `kind` is `row` (means over the seeds), `seed` (a run that counts in the row above), or `left out`.
COLUMNS = (
    "section",
    "kind",
    "name",
    "seed",
    "state",
    "folder",
    "model",
    "data",
    "image_size",
    "seeds",
    "parameters",
    "flops",
    "images_per_s",
    "images_per_s_spread",
    "peak_memory_bytes",
    "peak_memory_of",
    "top1_before_percent",
    "top1_percent",
    "top1_percent_spread",
    "best_top1_percent",
    "best_top1_percent_spread",
    "paper_top1_percent",
    "paper_source",
    "difference_points",
    "ema",
    "commit",
    "changed_tree",
    "data_hash",
    "duration",
    "epochs",
    "updates",
    "device",
    "marks",
)


def spreadsheet(sections: Iterable[Section]) -> str:
    """The CSV's text. Empty is what was not measured; accuracies are in %, their difference in points."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for section in sections:
        marked = marks(section)
        for i, row in enumerate(section.rows):
            letters = [mark.letter for mark in marked if any(place[0] == i for place in mark.places)]
            writer.writerow({"section": section.title, **_row(row), "marks": " ".join(letters)})
            counted = {id(cell) for cell in row.counted}
            for j, cell in enumerate(row.cells):
                letters = [mark.letter for mark in marked if (i, j) in mark.places]
                kind = "seed" if id(cell) in counted else "left out"
                line = {"section": section.title, "kind": kind, "name": row.name, **_cell(cell)}
                writer.writerow({**line, "marks": " ".join(letters)})
    return text.getvalue()


def _row(row: Row) -> dict[str, Any]:
    runs = [cell.run for cell in row.cells if cell.run is not None]
    peaks = {cell.result.peak_memory_of for cell in row.counted if cell.result is not None}
    return {
        "kind": "row",
        "name": row.name,
        "state": row.standing,
        "model": _one({run.model for run in runs}),
        "data": _one({run.data for run in runs}),
        "image_size": _one({run.image_size for run in runs}),
        "seeds": len(row.counted),
        "parameters": _mean(row.parameters),
        "flops": _mean(row.flops),
        "images_per_s": _mean(row.images_per_s),
        "images_per_s_spread": _spread(row.images_per_s),
        "peak_memory_bytes": row.peak_memory_bytes,
        "peak_memory_of": _one({peak for peak in peaks if peak}),
        "top1_before_percent": _mean(row.top1_before),
        "top1_percent": _mean(row.top1),
        "top1_percent_spread": _spread(row.top1),
        "best_top1_percent": _mean(row.best_top1),
        "best_top1_percent_spread": _spread(row.best_top1),
        "paper_top1_percent": None if row.paper is None else row.paper.top1,
        "paper_source": None if row.paper is None else row.paper.source,
        "difference_points": row.difference,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    line: dict[str, Any] = {"seed": cell.seed, "state": cell.standing}
    run, result = cell.run, cell.result
    if run is not None:
        line |= {
            "folder": str(run.folder),
            "model": run.model,
            "data": run.data,
            "image_size": run.image_size,
            "ema": "yes" if run.ema else "no",
            "commit": " ".join(run.commits),
            "changed_tree": "yes" if run.changed_tree else "no",
            "data_hash": " ".join(run.data_hashes),
            "duration": run.duration,
            "device": run.device,
        }
    if result is not None:
        line |= {
            "parameters": result.parameters,
            "flops": result.flops,
            "images_per_s": result.images_per_s,
            "peak_memory_bytes": result.peak_memory_bytes,
            "peak_memory_of": result.peak_memory_of,
            "top1_before_percent": result.top1_before,
            "top1_percent": result.top1,
            "best_top1_percent": result.best_top1,
            "epochs": result.epochs,
            "updates": result.updates,
        }
    return line


def _mean(value: Statistic | None) -> float | None:
    return None if value is None else value.mean


def _spread(value: Statistic | None) -> float | None:
    return None if value is None else value.spread


def _one(values: set[str]) -> str:
    """The value that all share, else each, a space between."""
    return " ".join(sorted(values))

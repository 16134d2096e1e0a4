"""A section as a table of texts: what every format prints, so that all of them say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from iwin.tools.report import marks as places
from iwin.tools.report.cells import FINISHED
from iwin.tools.report.marks import Mark, marks
from iwin.tools.report.rows import Row
from iwin.tools.report.runs import Run
from iwin.tools.report.sections import TABLE_VII, Section
from iwin.tools.report.statistic import Statistic

NOTHING = "\N{EN DASH}"
MOST_STANDING = 70  # characters of how a cell stands; the whole is below the table


@dataclass(frozen=True)
class TableCell:
    """What a cell says, and the letters of its marks."""

    text: str
    letters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A section's title, command and columns, as many cells in every row, and the sentences below.

    numeric: for each column whether it is set flush right.
    marked: the marks, whose notes stand below with their letters, before the other notes.
    """

    title: str
    command: str
    headings: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    marked: tuple[Mark, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Column:
    """`always` columns stand even where no row has anything to say."""

    key: str
    heading: str
    text: Callable[[Row], str]
    numeric: bool = True
    always: bool = True


COLUMNS = (
    _Column("name", "run", lambda row: row.name, numeric=False),
    _Column("state", "state", lambda row: _standing(row), numeric=False, always=False),
    _Column("data", "data", lambda row: _each(row, lambda run: f"{run.data} {run.image_size}".strip()), numeric=False),
    _Column(places.PARAMETERS, "parameters", lambda row: scaled(row.parameters)),
    _Column("flops", "FLOPs", lambda row: scaled(row.flops)),
    _Column(places.SPEED, "images/s", lambda row: _speed(row.images_per_s)),
    _Column("peak_memory", "peak memory", lambda row: _memory(row)),
    _Column("top1_before", "top-1 before, %", lambda row: accuracy(row.top1_before), always=False),
    _Column(places.TOP1, "top-1, %", lambda row: accuracy(row.top1)),
    _Column("best_top1", "best, %", lambda row: accuracy(row.best_top1)),
    _Column("paper", "paper, %", lambda row: NOTHING if row.paper is None else f"{row.paper.top1:.1f}", always=False),
    _Column(places.DIFFERENCE, "ours \N{MINUS SIGN} paper", lambda row: signed(row.difference), always=False),
    _Column("ema", "EMA", lambda row: _each(row, lambda run: "yes" if run.ema else "no"), numeric=False),
    _Column(places.COMMIT, "commit", lambda row: _each(row, _commit), numeric=False),
    _Column(places.DATA_HASH, "data hash", lambda row: _each(row, lambda run: run.data_hashes[-1:]), numeric=False),
)


def table(section: Section) -> Table:
    """The table of a section; columns that only few reports need are there where a row has something in them."""
    marked = marks(section)
    texts = {column.key: [column.text(row) for row in section.rows] for column in COLUMNS}
    columns = [column for column in COLUMNS if column.always or set(texts[column.key]) - {NOTHING, FINISHED}]
    rows = tuple(
        tuple(
            TableCell(texts[column.key][index], tuple(mark.letter for mark in marked if mark.on(index, column.key)))
            for column in columns
        )
        for index in range(len(section.rows))
    )
    return Table(
        title=section.title,
        command=section.command,
        headings=tuple(_heading(column, section) for column in columns),
        numeric=tuple(column.numeric for column in columns),
        rows=rows,
        marked=tuple(marked),
        notes=(*_measured(section), *_paper(section), *_standings(section), *section.notes),
    )


def scaled(value: Statistic | None) -> str:
    """Four digits and a letter, as 30.23 M."""
    if value is None:
        return NOTHING
    scale, letter = next(
        ((scale, letter) for scale, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))
         if round(value.mean / scale, 3) >= 1),
        (1.0, ""),
    )  # fmt: skip
    if not letter:
        return f"{value.mean:g}"
    number = value.mean / scale
    return f"{number:.{3 if number < 10 else 2 if number < 100 else 1}f}{letter}"


def accuracy(value: Statistic | None) -> str:
    """As 81.95, or 81.95 ± 0.12 (3) with the spread and the number of seeds."""
    if value is None:
        return NOTHING
    return f"{value.mean:.2f}" if value.spread is None else f"{value.mean:.2f} ± {value.spread:.2f} ({value.n})"


def signed(value: float | None) -> str:
    """As +0.12, with a true minus below zero."""
    return NOTHING if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _speed(value: Statistic | None) -> str:
    if value is None:
        return NOTHING
    digits = 0 if value.mean >= 100 else 1
    spread = "" if value.spread is None else f" ± {value.spread:,.{digits}f}"
    return f"{value.mean:,.{digits}f}{spread}"


def _memory(row: Row) -> str:
    """As 1.42 GB of a GPU, 1.42 GB RAM of a process."""
    if row.peak_memory_bytes is None:
        return NOTHING
    of = {cell.result.peak_memory_of for cell in row.counted if cell.result is not None}
    return f"{row.peak_memory_bytes / 1e9:.2f} GB{' RAM' if 'process' in of else ''}"


def _each(row: Row, say: Callable[[Run], str | Iterable[str]]) -> str:
    """What the runs of a row say, each thing once."""
    said: dict[str, None] = {}
    for cell in row.cells:
        if cell.run is not None:
            words = say(cell.run)
            said.update(dict.fromkeys([words] if isinstance(words, str) else words))
    return ", ".join(word for word in said if word) or NOTHING


def _commit(run: Run) -> str:
    return f"{run.commits[-1]}{'-dirty' if run.changed_tree else ''}" if run.commits else ""


def _standing(row: Row) -> str:
    whole = row.standing
    return whole if len(whole) <= MOST_STANDING else whole[: MOST_STANDING - 1].rstrip(" .,;:") + "…"


def _heading(column: _Column, section: Section) -> str:
    """The paper's column says what it is of where that is not what ours is."""
    of_table_vii = any(row.paper is not None and row.paper.ablation is not None for row in section.rows)
    if column.key == "paper" and of_table_vii and not all(row.comparable for row in section.rows if row.counted):
        return "paper, % (Iwin-T, ImageNet-1K)"
    return column.heading


def _measured(section: Section) -> list[str]:
    """How the numbers are to be read, of what is there."""
    said = []
    if any(row.top1 is not None and row.top1.spread is not None for row in section.rows):
        said.append("Mean ± sample standard deviation (number of seeds).")
    if any(row.flops is not None for row in section.rows):
        said.append("FLOPs: multiply-adds of one image.")
    speeds = [run for row in section.rows if row.images_per_s is not None for run in _runs(row)]
    if speeds:
        devices = dict.fromkeys(run.device for run in speeds if run.device)
        said.append(f"images/s: in training, all devices together; on {' and on '.join(devices) or 'unknown devices'}.")
    peaks = [cell.result.peak_memory_of for row in section.rows for cell in row.counted if cell.result is not None]
    if "process" in peaks:
        said.append("RAM: the peak of the whole process, where no GPU was used.")
    return said


def _paper(section: Section) -> list[str]:
    with_paper = [row for row in section.rows if row.paper is not None]
    if not with_paper:
        return []
    said = []
    sources = dict.fromkeys(row.paper.source for row in with_paper if row.paper is not None)
    others = [row for row in with_paper if row.counted and not row.comparable]
    if TABLE_VII in sources:
        models = {row.paper.ablation.model for row in with_paper if row.paper and row.paper.ablation}
        of = " and ".join(model.replace("iwin_", "Iwin-").title() for model in sorted(models, reverse=True))
        said.append(f"Paper: {TABLE_VII}, {of} on ImageNet-1K at 224 pixels, 300 epochs.")
    recipes = [source for source in sources if source != TABLE_VII]
    if recipes:
        said.append(f"Paper: {'; '.join(recipes)}; top-1 on ImageNet-1K.")
    if others:
        ours = dict.fromkeys(f"{run.model} on {run.data}" for row in others for run in _runs(row))
        said.append(
            f"Ours {'is' if len(ours) == 1 else 'are'} {', '.join(ours)}: the paper's numbers stand there for the "
            "order of the rows, and no difference is taken."
        )
    return said


def _standings(section: Section) -> list[str]:
    """In full, what had no place in the table."""
    return [
        f"{row.name}{f', seed {cell.seed}' if len(row.cells) > 1 else ''}: {cell.standing}."
        for row in section.rows
        if _standing(row) != row.standing
        for cell in row.cells
        if cell.state != FINISHED
    ]


def _runs(row: Row) -> list[Run]:
    return [cell.run for cell in row.counted if cell.run is not None]

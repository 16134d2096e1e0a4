"""Footnote marks: what differs among the cells of a table that nobody meant to differ, and in which cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from iwin.tools.paper import DURATION
from iwin.tools.report.cells import Cell
from iwin.tools.report.rows import Row
from iwin.tools.report.runs import Run
from iwin.tools.report.sections import Section

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# The columns that marks stand in.
TOP1, DIFFERENCE, SPEED, PARAMETERS, COMMIT, DATA_HASH = (
    "top1",
    "difference",
    "images_per_s",
    "parameters",
    "commit",
    "data_hash",
)
Place = tuple[int, int]  # a row, and a cell of it


@dataclass(frozen=True)
class Mark:
    """A letter that stands in a column of the rows whose cells it concerns, and the sentence below the table."""

    letter: str
    column: str
    note: str
    places: frozenset[Place]

    def on(self, row: int, column: str) -> bool:
        """Whether it stands in that cell of the table."""
        return column == self.column and any(place[0] == row for place in self.places)


@dataclass(frozen=True)
class _Facet:
    """Something that should be one and the same among the cells for which `within` is.

    `of` is None where it is not known.
    """

    column: str
    said: str
    of: Callable[[Run, Cell], str | None]
    within: Callable[[int, Run], object]


FACETS = (
    _Facet(COMMIT, "commit {}", lambda run, cell: ", then ".join(run.commits) or None, lambda row, run: None),
    _Facet(DATA_HASH, "data {}", lambda run, cell: ", then ".join(run.data_hashes) or None, lambda row, run: run.data),
    _Facet(TOP1, "a duration of {}", lambda run, cell: run.duration or None, lambda row, run: None),
    # Where the durations differ, so do the updates: that is said once.
    _Facet(
        TOP1,
        "{} updates",
        lambda run, cell: None if cell.result is None or cell.result.updates is None else f"{cell.result.updates:,}",
        lambda row, run: run.duration,
    ),
    _Facet(SPEED, "the machine's {}", lambda run, cell: run.device, lambda row, run: None),
    _Facet(
        PARAMETERS,
        "{}",
        lambda run, cell: None if cell.result is None else _size(cell),
        lambda row, run: row,
    ),
)


def marks(section: Section) -> list[Mark]:
    """The marks of a section, lettered in order. What the sweep itself sets is no mark."""
    found = list(_marks(section))
    return [Mark(_letter(index), *mark) for index, mark in enumerate(found)]


def _marks(section: Section) -> Iterator[tuple[str, str, frozenset[Place]]]:
    cells = {
        (i, j): (cell, cell.run)
        for i, row in enumerate(section.rows)
        for j, cell in enumerate(row.cells)
        if cell.run is not None
    }
    changed = frozenset(place for place, (_, run) in cells.items() if run.changed_tree)
    if changed:
        yield (
            COMMIT,
            f"the working tree was changed, so that more ran than the commit holds: {_who(section.rows, changed)}.",
            changed,
        )
    swept = {key for row in section.rows for cell in row.cells for key, _ in cell.settings}
    for facet in FACETS:
        if facet.said.startswith("a duration") and "duration" in swept:
            continue
        groups: dict[object, dict[Place, str]] = {}
        for place, (cell, run) in cells.items():
            value = facet.of(run, cell)
            if value is not None:
                groups.setdefault(facet.within(place[0], run), {})[place] = value
        for values in groups.values():
            usual = Counter(values.values()).most_common(1)[0][0]
            for value in dict.fromkeys(values.values()):
                if value != usual:
                    places = frozenset(place for place, one in values.items() if one == value)
                    note = (
                        f"{facet.said.format(value)}, where others have {facet.said.format(usual)}: "
                        f"{_who(section.rows, places)}."
                    )
                    yield facet.column, note, places
    lengths = {
        place: run.duration
        for place, (cell, run) in cells.items()
        if (row := section.rows[place[0]]).comparable and row.paper is not None and row.paper.ablation is not None
        if cell.result is not None and run.duration not in ("", DURATION)
    }
    for length in dict.fromkeys(lengths.values()):
        places = frozenset(place for place, one in lengths.items() if one == length)
        yield (
            DIFFERENCE,
            f"a duration of {length}, where the paper trains for {DURATION}: {_who(section.rows, places)}.",
            places,
        )


def _size(cell: Cell) -> str | None:
    """Parameters and FLOPs as words; None where neither is known."""
    result = cell.result
    if result is None or (result.parameters is None and result.flops is None):
        return None
    parameters = "unknown" if result.parameters is None else f"{result.parameters:,}"
    flops = "unknown" if result.flops is None else f"{result.flops:,.0f}"
    return f"{parameters} parameters and {flops} FLOPs"


def _who(rows: Sequence[Row], places: frozenset[Place]) -> str:
    """The rows that cells are of, with the seeds where not all of a row are meant."""
    if len(places) == sum(len(row.cells) for row in rows):
        return "all"
    said = []
    for index, row in enumerate(rows):
        seeds = [cell.seed for j, cell in enumerate(row.cells) if (index, j) in places]
        if len(seeds) == len(row.cells):
            said.append(row.name)
        elif seeds:
            said.append(f"{row.name} (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})")
    return "; ".join(said)


def _letter(index: int) -> str:
    """a to z, then aa, ab and so on."""
    rest, last = divmod(index, len(LETTERS))
    return (_letter(rest - 1) if rest else "") + LETTERS[last]

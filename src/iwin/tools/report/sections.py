"""Sections of a report, a table each: every sweep, and the single runs on each data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from iwin.tools.paper import ablation
from iwin.tools.report.cells import Cell, Sweep, single_run
from iwin.tools.report.names import identity, names
from iwin.tools.report.rows import Paper, Row, gather
from iwin.tools.report.runs import Run
from iwin.train.sweep import UNNAMED

TABLE_VII = "Iwin, Table VII"


@dataclass(frozen=True)
class Section:
    """A table's rows. `swept` is the one key that all labels are values of, else empty. `notes` are whole sentences."""

    title: str
    command: str
    swept: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def sections(sweeps: Iterable[Sweep], runs: Sequence[Run]) -> list[Section]:
    """The sections of a report, the sweeps first; no two have the same title."""
    found: list[Section] = []
    for sweep in sweeps:
        section = _of_sweep(sweep)
        if any(section.title == other.title for other in found):
            section = replace(section, title=f"{section.title}, in {sweep.folder}")
        found.append(section)
    for data in dict.fromkeys(run.data for run in runs):
        found.append(_of_runs(data, [run for run in runs if run.data == data]))
    return found


def _of_sweep(sweep: Sweep) -> Section:
    keys = list(dict.fromkeys(key for cell in sweep.cells for key, _ in cell.settings))
    swept = keys[0] if len(keys) == 1 else ""
    named = sweep.name if sweep.name != UNNAMED else f"of {', '.join(keys) or 'seeds'}"
    models = [cell.run.model for cell in sweep.cells if cell.run is not None]
    rows = []
    for group in gather(sweep.cells, lambda cell: cell.settings):
        settings = dict(group[0].settings)
        began = [cell.run for cell in group if cell.run is not None]
        model = began[0].model if began else settings.get("model", models[0] if models else "")
        name = ", ".join(f"{key}={value}" for key, value in settings.items()) or model or sweep.name
        label = settings.get(swept, name)
        rows.append(Row(name, label, tuple(group), _paper(sweep.name, settings, model, began)))
    notes = _repeats(rows)
    if sweep.unnamed:
        notes.append(f"Not of this table, as sweep.json does not name them: {', '.join(sweep.unnamed)}.")
    return Section(f"Sweep {named}", sweep.command, swept, tuple(rows), tuple(notes))


def _of_runs(data: str, runs: Sequence[Run]) -> Section:
    cells = [single_run(run) for run in runs]
    settings = {id(run): tuple(sorted(identity(run).items())) for run in runs}
    groups = gather(cells, lambda cell: settings[id(cell.run)])
    first = [group[0].run for group in groups if group[0].run is not None]
    rows = [
        Row(name, name, tuple(group), None if run.paper is None else Paper(*run.paper))
        for name, group, run in zip(names(first), groups, first, strict=True)
    ]
    return Section(f"Runs on {data}", "", "", tuple(rows), tuple(_repeats(rows)))


def _paper(sweep: str, settings: dict[str, str], model: str, began: Sequence[Run]) -> Paper | None:
    """Table VII's number; else that of the recipe, of which nothing but the seed may be swept."""
    row = ablation(sweep, settings, model)
    if row is not None:
        return Paper(row.top1, TABLE_VII, row)
    if set(settings) <= {"experiment"} and began and began[0].paper is not None:
        return Paper(*began[0].paper)
    return None


def _repeats(rows: Iterable[Row]) -> list[str]:
    return [
        f"{row.name}: seed {cell.seed} is there more than once, and the last counts; left out: {_folder(cell)}."
        for row in rows
        for cell in row.repeats
    ]


def _folder(cell: Cell) -> str:
    return "no folder" if cell.run is None else cell.run.folder.name

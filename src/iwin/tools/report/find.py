"""The runs and sweeps in the folders that a user names, up to two levels down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from iwin.errors import DataError, near_names
from iwin.tools.report.cells import SWEEP, Sweep, is_sweep, read_sweep
from iwin.tools.report.runs import CONFIG, PROVENANCE, Run, is_run, read_run

LEVELS = 2


def find(folders: Sequence[Path]) -> tuple[list[Sweep], list[Run]]:
    """What is in the folders, each once, sorted by name within a folder.

    A folder is searched no further where it is itself a sweep or a run. DataError where a folder is missing or has
    neither, and for what is damaged.
    """
    sweeps: dict[Path, Sweep] = {}
    runs: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}: {_instead(folder)}")
        found = _search(folder, LEVELS)
        if not found:
            raise DataError(
                f"no run in {folder}: looked for {SWEEP} (a sweep), and for {CONFIG} with {PROVENANCE} (a run), in it "
                f"and up to {LEVELS} levels down. Give the folder of a run, of a sweep, or the one that holds them."
            )
        for place in found:
            key = place.resolve()
            if is_sweep(place):
                sweeps.setdefault(key, read_sweep(place))
            else:
                runs.setdefault(key, read_run(place))
    of_sweeps = {cell.run.folder.resolve() for sweep in sweeps.values() for cell in sweep.cells if cell.run is not None}
    return list(sweeps.values()), [run for key, run in runs.items() if key not in of_sweeps]


def _search(folder: Path, levels: int) -> list[Path]:
    if is_sweep(folder) or is_run(folder):
        return [folder]
    if levels == 0:
        return []
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    return [place for child in children for place in _search(child, levels - 1)]


def _instead(folder: Path) -> str:
    parent = folder.parent
    names = [child.name for child in parent.iterdir() if child.is_dir()] if parent.is_dir() else []
    return near_names(folder.name, names) if names else "give the folder of a run, of a sweep, or one that holds them"

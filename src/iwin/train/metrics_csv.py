"""The log of a run as one table, metrics.csv: a row per update, true to the run across kills and resumes.

Columns: `epoch` (from 0), `step` (updates done), then the metrics in the order they first appeared. A cell
is empty where nothing was logged. Numbers have full precision: reading gives back the float that was logged.
"""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from iwin.errors import ConfigError, DataError

FIRST_COLUMNS = ["epoch", "step"]
Row = dict[str, str]


class MetricsCSV(Logger):
    """Writes `<folder>/metrics.csv`, from rank 0 alone.

    Every call reaches the file before it returns, and only ever touches the file's last line; so a kill
    costs that line at most. A new column, or rows taken back, are written beside the file and renamed into
    place. An existing log is continued, never deleted: a resumed run calls `truncate_after` with the updates
    of the checkpoint it starts from, and then has each update once.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = []  # empty until the file has been looked at
        self._last: Row = {}  # what the file's last line says
        self._last_at = 0  # the byte at which that line begins
        self._end = 0  # the byte after it

    @property
    def name(self) -> str:
        """Empty: the folder is the run's own, without a level for names."""
        return ""

    @property
    def version(self) -> str:
        """Empty: one log a folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of metrics.csv."""
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        """The folder of metrics.csv."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing: the resolved configuration is config.yaml in the run's folder."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add `metrics` to the row of an update; a second call for the same update joins the same row.

        step: the index of the update from 0, as Lightning counts; the row's `step` is one more, the updates
            done.

        Raises ConfigError when the log is already past this update, and ValueError without a step.
        """
        if step is None:
            raise ValueError("log_metrics needs a step: a row of metrics.csv belongs to an update")
        if not self._columns:
            self._open()
        done, logged = step + 1, int(self._last.get("step", 0))
        if done < logged:
            raise ConfigError(
                f"{self.path} has rows up to update {logged}, and update {done} is being logged: the folder holds the "
                "log of another run; resume from its checkpoint, or choose another folder"
            )
        row = {name: _cell(name, value) for name, value in metrics.items()} | {"step": str(done)}
        if done == logged:
            row = self._last | row
        new = [name for name in row if name not in self._columns]
        if new or not self.path.exists():
            columns = [*self._columns, *new]
            rows = _read(self.path)[1] if self.path.exists() else []
            self._replace(columns, [*(rows[:-1] if done == logged else rows), row])
        else:
            self._put(row, self._last_at if done == logged else self._end)

    @rank_zero_only
    def truncate_after(self, step: int) -> None:
        """Drop the rows beyond `step` updates done: what a run that resumes there will log again."""
        if not self.path.exists():
            return
        columns, rows, _ = _read(self.path)
        kept = [row for row in rows if int(row["step"]) <= step]
        if len(kept) < len(rows):
            self._replace(columns, kept)

    def _open(self) -> None:
        """Take up the log where an earlier process left it, without the line that a kill cut short."""
        if not self.path.exists():
            self._columns = list(FIRST_COLUMNS)
            return
        columns, rows, torn = _read(self.path)
        if torn:
            self._replace(columns, rows)
            return
        text = self.path.read_bytes()
        self._columns, self._last, self._end = columns, rows[-1] if rows else {}, len(text)
        self._last_at = text.rfind(b"\n", 0, -1) + 1

    def _put(self, row: Row, at: int) -> None:
        """Write `row` as the file's last line, from byte `at` on."""
        line = _line(row.get(name, "") for name in self._columns)
        with self.path.open("r+b", buffering=0) as file:
            file.truncate(at)  # before the write: a kill in between costs this line, and leaves no half of an old one
            file.seek(at)
            file.write(line)
        self._last, self._last_at, self._end = row, at, at + len(line)

    def _replace(self, columns: list[str], rows: list[Row]) -> None:
        """Write the whole table beside the file, and put it in its place in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [_line(columns), *(_line(row.get(name, "") for name in columns) for row in rows)]
        beside = self.path.with_name(self.path.name + ".new")
        with beside.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())  # otherwise a machine that dies may keep the rename and lose the rows
        beside.replace(self.path)
        self._columns, self._last, self._end = columns, rows[-1] if rows else {}, sum(map(len, lines))
        self._last_at = self._end - len(lines[-1])


def read_metrics(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a metrics.csv by name, each (rows,) float64, NaN where nothing was logged.

    A last line without its end, which a killed run leaves, does not count. Raises DataError when the file is
    missing, is no metrics.csv, or is damaged elsewhere.
    """
    columns, rows, _ = _read(Path(path))
    return {name: np.array([float(row[name] or "nan") for row in rows], dtype=np.float64) for name in columns}


def _read(path: Path) -> tuple[list[str], list[Row], bool]:
    """Columns, rows as text, and whether a half-written last line was left out."""
    if not path.is_file():
        raise DataError(f"no log at {path}: give the metrics.csv in the folder of a run")
    text = path.read_bytes().decode("utf-8", errors="replace")  # a kill may cut a character; only in the torn line
    whole, torn = text[: text.rfind("\n") + 1], not text.endswith("\n")
    columns, *lines = list(csv.reader(io.StringIO(whole))) or [[]]
    if columns[:2] != FIRST_COLUMNS:
        raise DataError(f"{path} does not begin with the columns epoch,step: it is no metrics.csv of a run")
    rows = []
    for number, cells in enumerate(lines, start=2):
        try:
            row = dict(zip(columns, cells, strict=True))
            _ = int(row["step"]), [float(cell) for cell in cells if cell]
        except ValueError as error:
            raise DataError(f"{path} is damaged at row {number}: {error}; remove that line") from error
        rows.append(row)
    return columns, rows, torn


def _cell(name: str, value: float) -> str:
    """Whole epochs as integers, all else as the shortest text that reads back as the same float."""
    return str(int(value)) if name == "epoch" and value == int(value) else repr(float(value))


def _line(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()

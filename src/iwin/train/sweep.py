"""A sweep: one command whose cells are runs, each in a folder of its own, found again by the same command.

The folder of the sweep holds those of its cells, and sweep.json, which says how each of them stands.
"""

from __future__ import annotations

import fcntl
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.utils import get_class
from rich.console import Console
from rich.table import Table

from iwin.errors import ConfigError
from iwin.exit_codes import DONE, RANK_LOST, RESUME, USER_ERROR, WORKER_LOST
from iwin.runtime import config_hash
from iwin.secrets import redact
from iwin.train.cell import CellProcess
from iwin.train.durable import put_text
from iwin.train.requeue import ENDED
from iwin.train.run_folder import NOT_IDENTITY, identity, shown, wait_until_free
from iwin.train.slurm import in_queue

# Overrides of what is no part of a run's identity are none of a sweep's either, unless they are what is swept.
_KEYS = [f"{group}.{key}".lstrip(".") for group, keys in NOT_IDENTITY.items() for key in keys]
_NOT_IDENTITY = re.compile(rf"[+~]*(?:{'|'.join(map(re.escape, _KEYS))})\b")
FILE = "sweep.json"
UNNAMED = "sweep"  # the name of one that no file in conf/sweep is of
LONGEST_NAME = 80
STATES = ("waiting", "running", "finished", "stopped", "failed")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    name: what is its own, as position=none. overrides: the same by key. folder: of its run, in that of the sweep;
    None until it was begun. state: one of STATES; a stopped one goes on when the sweep is started again, a failed one
    only where that is asked for. reason, exit_code: of the last two. job: of Slurm, that it was given to.
    """

    name: str
    overrides: dict[str, str]
    folder: str | None = None
    state: str = "waiting"
    reason: str | None = None
    exit_code: int | None = None
    job: str | None = None


def sweep_name(sweep: str | None, data: str) -> str:
    """The name of the folder of the sweep that this command line is: the same for the same overrides."""
    given = sorted(
        override
        for override in _command_overrides()
        if not _NOT_IDENTITY.match(override) or OverridesParser.create().parse_override(override).is_sweep_override()
    )
    return f"{sweep or UNNAMED}-{data}-{config_hash({'overrides': redact(given)})}"


class Sweep:
    """The cells of this command: run one after the other, each in a process of its own, or given to Slurm.

    Raises:
        ConfigError: the folder cannot be written, or another process is running the same sweep.
    """

    def __init__(self) -> None:
        hydra = HydraConfig.get()
        self.folder = Path(hydra.sweep.dir).absolute()
        self.name = str(hydra.runtime.choices.get("sweep") or UNNAMED)
        self._lock = self._take()
        # Hydra's copy of the configuration, as it was given: with what must not be written, and sweep.json says it.
        (self.folder / "multirun.yaml").unlink(missing_ok=True)
        self._planned = planned_cells(hydra.sweeper)
        self.cells = self._as_they_stood(cells_of(self._planned))
        self._stopped = False

    def _take(self) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise ConfigError(f"cannot write the folder of the sweep {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another process is running this sweep, in {shown(self.folder)}") from error
        return lock

    def _as_they_stood(self, cells: list[Cell]) -> list[Cell]:
        file = self.folder / FILE
        if not file.is_file():
            return cells
        try:
            before = {cell["name"]: Cell(**cell) for cell in json.loads(file.read_text())["cells"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file} is damaged ({error}): remove it; finished cells are not run again") from error
        return [self._as_its_run_is(self._as_its_job_ended(before.get(cell.name, cell))) for cell in cells]

    def _as_its_run_is(self, cell: Cell) -> Cell:
        """Of what the list says to run or to have finished: it runs no more, and its results may have been removed."""
        if cell.state not in ("running", "finished"):
            return cell
        ended = cell.folder is not None and (self.folder / cell.folder / "result.json").is_file()
        return replace(cell, state="finished" if ended else "stopped", exit_code=DONE if ended else None)

    def _as_its_job_ended(self, cell: Cell) -> Cell:
        """What the end of a Slurm job wrote into the cell's folder: jobs do not write sweep.json."""
        ended = self.folder / cell.folder / ENDED if cell.folder else None
        if ended is None or not ended.is_file():
            return cell
        return replace(cell, job=None, **json.loads(ended.read_text()))

    def present(self) -> int:
        """The number of the cell that Hydra's present job is."""
        hydra = HydraConfig.get()
        number, overrides = int(hydra.job.num), list(hydra.overrides.task)
        if overrides != self._planned[number]:
            raise RuntimeError(f"Hydra runs {overrides} where {self._planned[number]} was planned")
        return number

    def take(self, config: dict[str, Any], retry_failed: bool, state: str) -> Path | None:
        """The folder of the present cell, whose configuration is `config`, and which is in `state` from here on.

        None where it has an end already, or a job of Slurm has it: that is said. ConfigError where Slurm has to be
        asked, and cannot.
        """
        number = self.present()
        cell = self.cells[number]
        folder = self.folder / f"{in_command(cell.name)}-{identity(redact(config))}"
        head = f"cell {number + 1} of {len(self.cells)}  {cell.name}"
        if (folder / "result.json").is_file():
            self._put(number, folder=folder.name, state="finished", reason=None, exit_code=DONE, job=None)
            print(f"{head}: has finished", flush=True)
            return None
        if cell.state == "failed" and cell.folder in (None, folder.name) and not retry_failed:
            print(f"{head}: has failed; retry_failed=true tries it once more", flush=True)
            return None
        if cell.job is not None and in_queue(cell.job):
            print(f"{head}: is Slurm job {cell.job}", flush=True)
            return None
        (folder / ENDED).unlink(missing_ok=True)
        self._put(number, folder=folder.name, state=state, reason=None, exit_code=None, job=None)
        print(f"{head}" if state == "waiting" else f"\n{head}", flush=True)
        return folder

    def give(self, jobs: Mapping[int, str]) -> None:
        """Note which job of Slurm each of these cells has become."""
        for number, job in jobs.items():
            self._put(number, job=job)

    def run(self, config: dict[str, Any], retry_failed: bool) -> None:
        """Run the present cell, whose configuration is `config`; not where it has an end already."""
        folder = self.take(config, retry_failed, "running")
        if folder is None:
            return
        number, overrides = self.present(), list(HydraConfig.get().overrides.task)
        if wait_until_free(folder):
            self._put(number, state="finished", exit_code=DONE)
            return
        with CellProcess([*overrides, "hydra.mode=RUN"], folder) as process:
            code, reason = process.wait()
        if code == DONE and not (folder / "result.json").is_file():
            raise RuntimeError(f"the run of {self.cells[number].name} has ended without {folder / 'result.json'}")
        state = {DONE: "finished", RESUME: "stopped", RANK_LOST: "stopped", WORKER_LOST: "stopped"}.get(code, "failed")
        if code < 0 or process.asked_to_stop:
            state = "finished" if code == DONE else "stopped"
        self._put(number, state=state, reason=reason or None, exit_code=code)
        if code == RESUME or process.asked_to_stop:
            self._stopped = True
            sys.exit(self.finish())

    def refuse(self, reason: str) -> None:
        """Note that the present cell's configuration cannot be used."""
        number = int(HydraConfig.get().job.num)
        print(f"\ncell {number + 1} of {len(self.cells)}  {self.cells[number].name}\nerror: {reason}", flush=True)
        self._put(number, state="failed", reason=reason, exit_code=USER_ERROR)

    def finish(self) -> int:
        """Print how all cells stand, and let others have the sweep; returns its exit code."""
        self._lock.close()
        print_cells(Console(), self.folder, self.cells)
        if self._stopped:
            return RESUME
        if any(cell.job for cell in self.cells):  # what becomes of these is not known yet
            return next((cell.exit_code for cell in self.cells if cell.exit_code), DONE)
        codes = [cell.exit_code for cell in self.cells if cell.state != "finished"]
        return next((code if code is not None and code > 0 else RESUME for code in codes), DONE)

    def _put(self, number: int, **changes: Any) -> None:
        self.cells[number] = replace(self.cells[number], **changes)
        hydra = HydraConfig.get()
        stands = {
            "sweep": self.name,
            "data": str(hydra.runtime.choices.get("data")),
            "command": redact([sys.executable, *sys.argv]),
            "cells": [asdict(cell) for cell in self.cells],
        }
        put_text(self.folder / FILE, json.dumps(redact(stands), indent=1) + "\n")


def planned_cells(sweeper: Any) -> list[list[str]]:
    """The overrides of every cell, in Hydra's order."""
    kind: Any = get_class(sweeper._target_)
    if not issubclass(kind, Sweeper) or not hasattr(kind, "split_arguments"):
        raise ConfigError(f"hydra/sweeper: sweeps here are grids; {sweeper._target_} makes none")
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    given = [f"{key}={value}" for key, value in (sweeper.params or {}).items()] + _command_overrides()
    return [list(cell) for cell in kind.split_arguments(parser.parse_overrides(given), None)[0]]


def cells_of(planned: Sequence[Sequence[str]]) -> list[Cell]:
    """The cells with their names, which are made of what differs between them."""
    pairs = [dict(override.split("=", 1) for override in cell) for cell in planned]
    keys = [key for key in pairs[0] if len({cell[key] for cell in pairs}) > 1]
    short = [key.rpartition(".")[2] for key in keys]
    names = {key: key if short.count(one) > 1 else one for key, one in zip(keys, short, strict=True)}
    cells: list[Cell] = []
    for cell in pairs:
        own = {key: cell[key] for key in keys}
        parts = ",".join(f"{names[key]}={value}" for key, value in redact(own).items())
        name = re.sub(r"[^\w=.,+-]", "", parts)[:LONGEST_NAME] or "run"
        taken = {other.name for other in cells}
        number = 1
        while (one := name if number == 1 else f"{name}-{number}") in taken:
            number += 1
        cells.append(Cell(one, own))
    return cells


def in_command(name: str) -> str:
    """The name of a cell without what an unquoted value of an override must not have: checkpoint=runs/SWEEP/CELL."""
    return re.sub(r"[^\w.+-]", "_", name.replace("=", "-"), flags=re.ASCII)


def print_cells(console: Console, folder: Path, cells: Sequence[Cell]) -> None:
    """A line for each cell: how it stands, its accuracy or its reason."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for column in ("cell", "", "top-1"):
        table.add_column(column, justify="right" if column == "top-1" else "left", no_wrap=column != "")
    for cell in cells:
        top1 = ""
        if cell.state == "finished" and cell.folder is not None:
            last = json.loads((folder / cell.folder / "result.json").read_text())["last"]
            top1 = f"{100 * last['val/top1']:.2f} %" if "val/top1" in last else ""
        state = f"Slurm job {cell.job}" if cell.job else cell.state
        table.add_row(cell.name, state + (f": {cell.reason}" if cell.reason else ""), top1)
    console.print()
    console.print(table)
    console.print(f"\nReport    iwin report {shown(folder)}", soft_wrap=True)


def _command_overrides() -> list[str]:
    # Known ones: a program that composes a configuration without Hydra's command line has other arguments. Hydra's own
    # are of no cell.
    given = get_args_parser().parse_known_args()[0].overrides
    return [override for override in given if not re.match(r"[+~]*hydra[./]", override)]

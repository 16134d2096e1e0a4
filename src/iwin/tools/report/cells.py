"""What a report has a place for: the cells of a sweep, and single runs, which are cells without a sweep."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from iwin.errors import DataError
from iwin.secrets import redact
from iwin.tools.report.documents import Document, read_json
from iwin.tools.report.runs import CONFIG, Result, Run, is_run, read_run
from iwin.train.requeue import ENDED

SWEEP = "sweep.json"
FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"
STATES = (FINISHED, FAILED, "waiting", "running", "stopped")  # what sweep.json says
SEED = "seed"


@dataclass(frozen=True)
class Cell:
    """One run of a report, done or not.

    settings: what the sweep sets for it, the seed not among them; empty for a single run.
    state: one of STATES, or `unfinished`.
    reason: why it failed or stopped; may be empty.
    """

    settings: tuple[tuple[str, str], ...]
    seed: str
    state: str
    reason: str
    run: Run | None

    @property
    def result(self) -> Result | None:
        """What counts: of a finished cell alone, whatever a failed one left behind."""
        return self.run.result if self.run is not None and self.state == FINISHED else None

    @property
    def standing(self) -> str:
        """`finished`, `failed: out of memory`, `running, in epoch 3 of 50`, `waiting`."""
        if self.state in (FINISHED, "waiting"):
            return self.state
        if self.state == FAILED:
            return f"{FAILED}: {self.reason or 'no reason given'}"
        begun = f"{self.state}, {self.run.so_far}" if self.run is not None else self.state
        return f"{begun}: {self.reason}" if self.reason else begun


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder. `unnamed` are the run folders in it that sweep.json does not name."""

    folder: Path
    name: str
    command: str
    cells: tuple[Cell, ...]
    unnamed: tuple[str, ...]


def single_run(run: Run) -> Cell:
    """A run that no sweep began."""
    return Cell((), run.seed, UNFINISHED if run.result is None else FINISHED, "", run)


def is_sweep(folder: Path) -> bool:
    """Whether the folder is one of a sweep."""
    return (folder / SWEEP).is_file()


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder, with every run of it. DataError, naming the file, for what is damaged."""
    document = read_json(folder / SWEEP)
    parts = document.parts("cells")
    named = {name for part in parts if (name := part.text("folder"))}
    unnamed = sorted(child.name for child in folder.iterdir() if child.name not in named and is_run(child))
    command = document.texts("command")
    program = [Path(one).name for one in command[:1]]  # not where Python lies on the machine that it ran on
    return Sweep(
        folder=folder,
        name=document.text("sweep") or folder.resolve().name,
        command=shlex.join(redact([*program, *command[1:]])),
        cells=tuple(_cell(folder, part) for part in parts),
        unnamed=tuple(unnamed),
    )


def _cell(folder: Path, part: Document) -> Cell:
    state = part.text("state")
    if state not in STATES:
        raise DataError(f"{part.path} is damaged: a cell's state must be one of {', '.join(STATES)}, and is {state!r}")
    name = part.text("folder")
    run = read_run(folder / name) if name and (folder / name / CONFIG).is_file() else None
    overrides = {str(key): str(value) for key, value in part.mapping("overrides").items()}
    reason = part.text("reason") or ""
    if part.text("job") is not None:  # Slurm's jobs write into their own folders alone
        if name and (folder / name / ENDED).is_file():
            end = read_json(folder / name / ENDED)
            state, reason = end.text("state") or FAILED, end.text("reason") or ""
        elif run is not None:
            state = "running"
    if state != FAILED:  # the folder knows of an end that sweep.json may not know of yet
        ended = run is not None and run.result is not None
        if state == FINISHED and not ended:
            state, reason = FAILED, f"ended, but there is no result.json in {name or 'a folder of its own'}"
        state = FINISHED if ended else state
    return Cell(
        settings=tuple((key, value) for key, value in overrides.items() if key != SEED),
        seed=overrides.get(SEED, "" if run is None else run.seed),
        state=state,
        reason=" ".join(reason.split()),
        run=run,
    )

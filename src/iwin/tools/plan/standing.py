"""What the command would do with its run folder: begin, go on, or leave a run that has ended and begin another."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path

from iwin.train.recovery import BEST, unusable, update_checkpoints
from iwin.train.run_folder import LOCK, RunFolder, numbered
from iwin.weights.digest import damage


@dataclass(frozen=True)
class Standing:
    """folder: the one that the command would take. start: begin or resume. checkpoint: where it would go on, None for
    its beginning. passed_over: folders of the same command with why each is left as it is. notes: damaged checkpoints.
    """

    folder: Path
    start: str
    checkpoint: Path | None
    passed_over: dict[str, str]
    notes: tuple[str, ...]


def look(first: Path) -> Standing:
    """How the run stands whose first folder is `first` (see run_path). Nothing is made, moved or held.

    WeightsError where a newer version of this program wrote the checkpoint.
    """
    passed_over = {}
    for path in numbered(first):
        if (path / "result.json").is_file():
            passed_over[path.name] = "has ended"
        elif _held(path):
            passed_over[path.name] = "is still running"
        elif not RunFolder(path, None).resumed:
            return Standing(path, "begin", None, passed_over, ())
        else:
            checkpoint, notes = _newest(path / "checkpoints")
            return Standing(path, "resume", checkpoint, passed_over, notes)
    raise AssertionError("there is always another number")


def _held(folder: Path) -> bool:
    """Whether a process runs in the folder."""
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until it is closed, which is at once
    except BlockingIOError:
        return True
    except OSError:  # no such folder, or not ours to read
        return False
    return False


def _newest(folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The checkpoint that training would go on from, and what it would set aside."""
    notes: list[str] = []
    for path in [*update_checkpoints(folder), folder / BEST]:
        if path.exists():
            why = damage(path) or unusable(path)
            if why is None:
                return path, tuple(notes)
            notes.append(f"{path.name} would be passed over: {why}")
    return None, tuple(notes)

"""Going back to the last checkpoint and on with another order of the data, in the same process.

How often a run went back is its attempt, which every order and every draw is a function of. The list of it is in
the run folder, and durable before training starts again: a run that is killed right after going back has an older
attempt in its checkpoint, and must not repeat what failed.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from iwin.errors import DataError

Result = TypeVar("Result")


class RollBack(Exception):
    """Raised on all ranks alike, at the same update: what was trained since the last checkpoint is not to be kept.

    attempt: the one that failed. updates: those that made it fail, as metrics.csv counts them.
    """

    def __init__(self, attempt: int, updates: list[int]) -> None:
        super().__init__(f"updates {updates} of attempt {attempt} were not finite")
        self.attempt = attempt
        self.updates = updates


class RollsBack(Protocol):
    """What the data module has for this."""

    def roll_back(self) -> None:
        """Go on with other orders and draws: the attempt counts one up."""


def read_roll_backs(folder: Path) -> list[dict[str, Any]]:
    """Every time that the run in `folder` went back: {"attempt": the one that failed, "updates": [...]}.

    DataError where the file is there and cannot be read.
    """
    path = _file(folder)
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text())["roll_backs"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): it says how often the run went back to a checkpoint. Remove it to go on "
            "as if it never had"
        ) from error


def train_with_roll_backs(once: Callable[[], Result], *, folder: Path, data: RollsBack, writes: bool) -> Result:
    """`once()` until it comes to an end without RollBack; what it returns.

    once: makes all of a training anew (model, callbacks, trainer), but for `data`, and goes on from the newest
        checkpoint that there is, or from the beginning.
    folder: of the run. writes: true on rank 0 alone.
    """
    for _ in read_roll_backs(folder):
        data.roll_back()
    while True:
        failed = None
        try:
            return once()
        except RollBack as error:
            failed = {"attempt": error.attempt, "updates": error.updates}
        # Outside of the handler: the exception would keep the old model and its workers alive. So would cycles.
        gc.collect()
        if writes:
            _write(folder, [*read_roll_backs(folder), failed])
        data.roll_back()


def _file(folder: Path) -> Path:
    return folder / "roll_backs.json"


def _write(folder: Path, roll_backs: list[dict[str, Any]]) -> None:
    path = _file(folder)
    beside = path.with_name(path.name + ".new")
    with beside.open("w") as file:
        json.dump({"roll_backs": roll_backs}, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself
    finally:
        os.close(directory)

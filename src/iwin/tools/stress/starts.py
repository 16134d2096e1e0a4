"""Starting train.py again and again, from one process that has everything imported already."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import select
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from iwin.errors import UserError

IMPORTED = ("iwin.app", "iwin.train.fit", "iwin.data.module", "iwin.train.task", "timm", "cv2", "torch._dynamo")
GONE_S = 60.0  # in which all processes of a killed run must have ended


class StressError(UserError):
    """A promise about interrupted runs does not hold, or a run did not even come to its end."""


class Ending(NamedTuple):
    """code: the exit code of the main process, negative for a signal. alive: a file descriptor that is at its end
    once every process of the run has ended; data workers outlive a killed main process by seconds."""

    code: int
    alive: int


def warm() -> None:
    """Import what a run imports, which is most of the time of a short one.

    Nothing may be computed here: threads that computing starts do not live in a forked process.
    """
    for name in IMPORTED:
        importlib.import_module(name)


def start(
    args: list[str], log: Path, *, kill_after_s: float | None = None, kill_after_update: int | None = None
) -> Ending:
    """`python train.py ARGS`, to its end or to a SIGKILL of its main process: after so many seconds, or by itself at
    the end of that update. What it prints is added to `log`.

    Returns as soon as the main process has ended, as whoever starts a killed run again does not wait either.
    """
    alive, held = os.pipe()  # every process of the run holds this end, and nobody else
    process = multiprocessing.get_context("fork").Process(target=_run, args=(args, log, kill_after_update))
    process.start()
    os.close(held)
    try:
        process.join(kill_after_s)
    finally:  # also where this command itself is being stopped
        if process.exitcode is None:
            process.kill()
            process.join()
    assert process.exitcode is not None
    return Ending(process.exitcode, alive)


def wait_until_gone(endings: list[Ending]) -> None:
    """Wait for the last process of each of these runs. StressError where one is left after a minute."""
    for ending in endings:
        if not select.select([ending.alive], [], [], GONE_S)[0]:
            raise StressError(f"{GONE_S:.0f} s after the end of a run there is still a process of it")
        os.close(ending.alive)


def _run(args: list[str], log: Path, kill_after_update: int | None) -> None:
    """The forked process: from here on it is as if train.py had been started."""
    from iwin.app import main
    from iwin.train.callbacks.witness import Witness

    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["train.py", *args]
    Witness.kill_after = kill_after_update
    try:
        main("train")
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()

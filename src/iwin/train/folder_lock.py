"""The lock of a run's folder, which one process holds while its run is going on there."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from iwin.errors import ConfigError
from iwin.train.slurm import this_job

LOCK = ".lock"  # in the folder; whoever locks it writes into it who that is
LOOK_EVERY_S = 0.25


class Held(Exception):
    """Another process has the folder still. holder: which one, in words."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


def hold(
    folder: Path,
    patience_s: float,
    *,
    announce: Callable[[str], object] = lambda holder: None,
    meanwhile: Callable[[], object] = lambda: None,
) -> IO[str]:
    """Lock the folder, which is made; the open file is the lock.

    announce: called once with the holder, where there is one. meanwhile: called every LOOK_EVERY_S while this waits.

    Raises:
        Held: so many seconds were not enough.
        ConfigError: the folder cannot be written, or its file system has no locks.
    """
    deadline = time.monotonic() + patience_s
    announced = False
    while True:
        lock = _opened(folder)
        if _try(lock, folder):
            if _is_still_there(lock, folder):
                break
            lock.close()
            continue
        holder = _holder(lock)
        lock.close()
        if time.monotonic() >= deadline:
            raise Held(holder)
        if not announced:
            announce(holder)
            announced = True
        meanwhile()
        time.sleep(LOOK_EVERY_S)
    job = this_job()
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}{f', Slurm job {job.name}' if job else ''}\n")
    lock.flush()
    # A forked data worker has the lock too, and outlives a killed run by seconds, in which the same command
    # would take the folder to be in use.
    os.register_at_fork(after_in_child=lock.close)
    return lock


def wait_for(folder: Path, announce: Callable[[], object]) -> None:
    """Return once no process has the folder locked. ConfigError where its file system has no locks."""
    if (folder / LOCK).is_file():
        with (folder / LOCK).open("a") as lock:
            if not _try(lock, folder):
                announce()
                fcntl.flock(lock, fcntl.LOCK_EX)


def remove_empty(folder: Path) -> None:
    """Remove a folder in which nothing is but its lock. The lock is to be let go of afterwards."""
    if [file.name for file in folder.iterdir()] == [LOCK]:
        (folder / LOCK).unlink()
        folder.rmdir()


def _opened(folder: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / LOCK).open("a+")  # what another has written is to stay
    except OSError as error:
        raise ConfigError(
            f"cannot write the run folder {folder}: {error.strerror}. Set paths.runs_dir (or IWIN_RUNS) to a folder "
            f"that you may write to."
        ) from error


def _try(lock: IO[str], folder: Path) -> bool:
    """Whether the lock was free, and is now ours."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        remove_empty(folder)
        raise ConfigError(
            f"the file system of {folder} has no locks ({error.strerror}), which keep two processes from writing one "
            "run folder: mount it with them (Lustre: -o flock), or set paths.runs_dir (or IWIN_RUNS) to one that has "
            "them"
        ) from error
    return True


def _is_still_there(lock: IO[str], folder: Path) -> bool:
    """Not where the one that held it has begun nothing, and removed its folder."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat())
    except FileNotFoundError:
        return False


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read().strip() or "another process"

"""Locks on files, held between processes; a process that ends in any way leaves none behind.

A lock belongs to the opened file and not to the process, so one that a thread holds while another thread forks
would live on in the child, where nobody gives it back. Each child therefore closes its copies at once.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_held: set[int] = set()


def take(path: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """Lock the file at `path`, alone or `shared` with others that share, until `release` of the returned descriptor.

    wait: until whoever holds it gives it back; otherwise None is returned where somebody does. FileNotFoundError
    where there is no such file.
    """
    descriptor = os.open(path, os.O_RDONLY)
    _held.add(descriptor)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        release(descriptor)
        return None
    except BaseException:
        release(descriptor)
        raise
    return descriptor


def release(descriptor: int) -> None:
    """Give the lock back. Nothing in a process that was forked since it was taken: there it is no lock any more."""
    if descriptor not in _held:
        return
    _held.remove(descriptor)
    # Closing alone would leave it locked where a process that is being forked just now has not closed its copy yet.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, alone, after waiting for it. It is made where it is missing, and stays."""
    path.touch()
    descriptor = take(path)
    assert descriptor is not None
    try:
        yield
    finally:
        release(descriptor)


def is_locked(path: Path) -> bool:
    """Whether anybody holds the file, or shares it. FileNotFoundError where there is no such file."""
    descriptor = take(path, wait=False)
    if descriptor is None:
        return True
    release(descriptor)
    return False


def _forget_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)

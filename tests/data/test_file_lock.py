from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iwin.data.file_lock import is_locked, locked, release, take


@contextmanager
def child(body: Callable[[], object]) -> Iterator[int]:
    """A forked process that runs `body`, has it answer, and then waits to be killed. Gives its id."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.write(writing, pickle.dumps(body()))
        finally:
            signal.pause()
            os._exit(0)
    os.close(writing)
    try:
        assert pickle.loads(os.read(reading, 1000)) is not None
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(reading)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file"


def test_one_holds_a_file_alone_or_many_share_it(file: Path) -> None:
    alone = take(file)
    assert alone is not None
    assert is_locked(file)
    assert take(file, shared=True, wait=False) is None
    release(alone)
    assert not is_locked(file)
    first, second = take(file, shared=True), take(file, shared=True)
    assert first is not None
    assert second is not None
    release(first)
    assert is_locked(file)
    release(second)
    assert not is_locked(file)


def test_a_lock_is_given_back_when_the_context_is_left_through_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with locked(tmp_path / "new.lock"):
            assert is_locked(tmp_path / "new.lock")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not is_locked(tmp_path / "new.lock")


def test_a_process_that_is_killed_holds_nothing_any_more(file: Path) -> None:
    with child(lambda: take(file)):
        assert is_locked(file)
    assert not is_locked(file)


def test_a_child_keeps_nothing_that_its_parent_gives_back(file: Path) -> None:
    descriptor = take(file)
    assert descriptor is not None
    with child(lambda: True):
        assert is_locked(file)
        release(descriptor)
        assert not is_locked(file)


def test_a_child_keeps_nothing_of_a_parent_that_died(file: Path) -> None:
    descriptor = take(file)
    assert descriptor is not None
    with child(lambda: True):
        os.close(descriptor)  # all that is left of a killed process: its descriptors are closed
        assert not is_locked(file)


def test_a_child_does_not_give_back_what_its_parent_holds(file: Path) -> None:
    descriptor = take(file)
    assert descriptor is not None
    with child(lambda: release(descriptor) or True):
        assert is_locked(file)
    release(descriptor)

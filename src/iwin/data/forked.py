"""Runs a function over tasks in forked processes that never outlive the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from iwin.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")

_function: Callable[[Any], Any]  # in a worker: what it runs


@contextmanager
def forked(function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> Iterator[Iterator[Result]]:
    """Iterate over function(task) of all tasks, each when it is done, run by up to `jobs` processes, from 1.

    The processes are forked, so the function and what it holds (a listing of millions of images) are not copied;
    a task and its result are pickled. They are all forked here, before the first result is asked for. Where the
    context is left through an exception, or this process dies, they end at once, wherever they are.

    Raises:
        DataError: a process was killed. What the function raises is raised as it is.
    """
    watched, held = os.pipe()
    pool = ProcessPoolExecutor(
        min(jobs, max(1, len(tasks))),
        mp_context=multiprocessing.get_context("fork"),
        initializer=_begin,
        initargs=(function, watched, held),
    )
    ended = False
    try:
        yield _results([pool.submit(_run, task) for task in tasks])
        pool.shutdown()
        ended = True
    finally:
        os.close(held)
        os.close(watched)
        if not ended:
            pool.shutdown(cancel_futures=True)


def _results(futures: list[Future[Result]]) -> Iterator[Result]:
    try:
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that works on the images was killed, as the system does where memory runs out. What is "
            "finished stays: give the same command again, with fewer --jobs if that was it."
        ) from error


def _begin(function: Callable[[Any], Any], watched: int, held: int) -> None:
    """Set up a worker. Only the process that started it keeps `held` open, so its end shows at `watched`."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the first one decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.close(held)
    threading.Thread(target=_end_with, args=(watched,), daemon=True).start()


def _end_with(watched: int) -> None:
    os.read(watched, 1)
    os._exit(1)


def _run(task: Any) -> Any:
    return _function(task)

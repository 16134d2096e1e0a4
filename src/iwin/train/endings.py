"""How a run ends before its end: by a signal, by a lost data worker, by a lost rank. Each has its exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import torch.distributed

from iwin.exit_codes import RANK_LOST, RESUME, WORKER_LOST

WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<how>[^\n]*)")
# What gloo says when the process at the other end of a connection is gone, or does not answer.
NO_PEER = re.compile(r"Connection closed by peer|Connection reset by peer|Broken pipe|Timed out waiting|gloo", re.I)


class Ended(SystemExit):
    """Ends this process with an exit code, after the message for people has been printed."""

    code: int


class ResumeLater(Ended):
    """A signal asked the run to stop, and all of it is saved. Every rank raises this after the same update."""

    def __init__(self) -> None:
        super().__init__(RESUME)


def ending_of(error: BaseException, ranks: int) -> tuple[int, str] | None:
    """The exit code and the message for an error that is the loss of a process, and no defect; None for others.

    ranks: the processes of the run. With one, no error is taken for a lost rank.
    """
    causes = list(_causes(error))
    workers = [found for cause in causes if isinstance(cause, RuntimeError) and (found := WORKER.search(str(cause)))]
    if workers:
        worker = workers[-1]  # the first that was raised, which has the signal
        return WORKER_LOST, (
            f"a data worker is lost (process {worker['pids']} {worker['how'].rstrip('. ')}). Systems kill processes "
            "where memory runs out: fewer data.num_workers or a smaller data.prefetch need less. The same command "
            "goes on from the last checkpoint."
        )
    for cause in causes:
        if ranks > 1 and (isinstance(cause, torch.distributed.DistError) or _is_of_gloo(cause)):
            return RANK_LOST, (
                f"another process of this run has ended or does not answer ({str(cause).strip().splitlines()[0]}). "
                "The same command goes on from the last checkpoint."
            )
    return None


def say(message: str, rank: int | None = None) -> None:
    """A line on stderr, which names the rank where one is given."""
    print(f"error: {'' if rank is None else f'rank {rank}: '}{message}", file=sys.stderr, flush=True)


def _is_of_gloo(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and NO_PEER.search(str(error)) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from or while handling, newest first."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__

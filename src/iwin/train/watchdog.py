"""Ends a process that hangs, so that no run waits for ever for a rank that is gone.

A rank that waits in a collective cannot raise, nor handle a signal: Python never gets to it. So a thread looks
for a sign of life, writes where every thread stands, and ends the process.
"""

from __future__ import annotations

import datetime
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from iwin.exit_codes import RANK_LOST, RESUME, USER_ERROR, WORKER_LOST
from iwin.train.endings import say
from iwin.train.launcher import end_started, launcher_pid, started_ranks

TICK_S = 0.5
GRACE_S = 5.0  # for other ranks to end by themselves, which then say why
FILE_S = 5.0  # for the stacks to reach the run folder: its disk may be what hangs


class Watchdog:
    """While in a `with`, ends the process when `beat` was not called for as long as the last call allows.

    Also when the process that started this one is gone, and when a rank that this one started has ended with an
    error and this one does not follow. Before it ends, the stacks of all threads go to stderr and to
    `folder`/stacks/rank-N.txt. Ranks that this process started end with it, each with its stacks.

    Time in which the process was stopped and could not have done anything (SIGSTOP, a job that is suspended)
    does not count.

    clock: seconds. end: what ends the process, given the exit code.
    """

    def __init__(
        self, folder: Path, *, clock: Callable[[], float] = time.monotonic, end: Callable[[int], object] = os._exit
    ) -> None:
        self.folder = folder
        self._clock, self._end = clock, end
        self._beat: tuple[str, float] = ("starting", float("inf"))  # replaced as a whole, so that no lock is needed
        self._seen = self._beat
        self._idle_s = 0.0
        self._ticked_at = 0.0
        self._failed: tuple[int, int] | None = None  # a rank that has ended with an error, and its code
        self._failed_s = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        if not faulthandler.is_enabled():
            faulthandler.enable()  # also what writes the stacks of a rank that end_started ends
        self._stop.clear()
        self._ticked_at, self._idle_s = self._clock(), 0.0
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def beat(self, doing: str, limit_s: float) -> None:
        """A sign of life: the process begins with `doing`, and shall give another sign within `limit_s` seconds."""
        self._beat = (doing, limit_s)

    def _watch(self) -> None:
        while not self._stop.wait(TICK_S):
            self.look()

    def look(self) -> None:
        """One look at the process and those beside it."""
        now = self._clock()
        passed = min(now - self._ticked_at, 2 * TICK_S)
        self._ticked_at = now
        beat = self._beat
        if beat is not self._seen:
            self._seen, self._idle_s = beat, 0.0
        else:
            self._idle_s += passed
        doing, limit_s = beat
        parent = launcher_pid()
        if parent is not None and os.getppid() != parent:
            self.give_up("rank 0, which started this process, has ended")
        elif self._rank_failed(passed):
            assert self._failed is not None
            self.give_up("rank {} has ended with exit code {}".format(*self._failed))
        elif self._idle_s > limit_s:
            self.give_up(f"no sign of life for {self._idle_s:.0f} s while {doing}: this rank or another one hangs")

    def give_up(self, why: str) -> None:
        """Write the stacks, end the ranks that this process started, and end it."""
        rank = own_rank()
        where = stack_file(self.folder, rank)
        say(f"{why}. The same command goes on from the last checkpoint. The stacks of all threads: {where}", rank)
        write_stacks(self.folder, rank, why)
        end_started(GRACE_S)
        self._end(code_after_others())

    def _rank_failed(self, passed: float) -> bool:
        """Whether a rank that this one started has ended with an error, and long enough ago."""
        if self._failed is None:
            for rank, code in started_ranks().items():
                if code not in (None, 0, RESUME):
                    self._failed = rank, int(code or 0)
                    break
        else:
            self._failed_s += passed
        return self._failed is not None and self._failed_s > GRACE_S


def own_rank() -> int:
    """This process's rank; as its launcher says before torch.distributed is up."""
    return int(getattr(rank_zero_only, "rank", None) or 0)


def code_after_others() -> int:
    """The exit code of a process that ends because others did: theirs, where it says why."""
    telling = [code for code in started_ranks().values() if code in (USER_ERROR, WORKER_LOST)]
    return telling[0] if telling else RANK_LOST


def stack_file(folder: Path, rank: int) -> Path:
    """Where the stacks of a rank are."""
    return folder / "stacks" / f"rank-{rank}.txt"


def write_stacks(folder: Path, rank: int, why: str, error: BaseException | None = None) -> None:
    """Write where every thread of this process stands to stderr and to `stack_file`; before it, `error`'s traceback."""

    def write(to: IO[str]) -> None:
        moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        print(f"--- rank {rank}, process {os.getpid()}, {moment}: {why}", file=to, flush=True)
        if error is not None:
            traceback.print_exception(error, file=to)
            to.flush()
        faulthandler.dump_traceback(file=to)

    def write_file() -> None:
        path = stack_file(folder, rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            write(file)

    write(sys.__stderr__ or sys.stderr)
    writer = threading.Thread(target=write_file, daemon=True)
    writer.start()
    writer.join(FILE_S)

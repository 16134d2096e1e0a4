"""One run of a sweep as a process of its own: with signals passed on to it, and its last words kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any

from iwin.train.requeue import SAID_LINES, reason_of
from iwin.train.signals import STOPPING, end_with_parent

SWEEP_VARIABLE = "IWIN_SWEEP"  # the process that runs the sweep, and the folder of the cell


class CellProcess:
    """train.py with the overrides, running in `folder` while in a `with`; its output goes where ours goes.

    SIGTERM, SIGUSR1, SIGUSR2 and SIGINT are passed on to it: it saves, and ends with the exit code that says so. It
    does not outlive this process.
    """

    def __init__(self, overrides: list[str], folder: Path) -> None:
        self._overrides = overrides
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._last: deque[str] = deque(maxlen=SAID_LINES)
        self.asked_to_stop = False

    def __enter__(self) -> CellProcess:
        self._before = {signum: signal.signal(signum, self._pass_on) for signum in STOPPING}
        # A session of its own: Ctrl-C in the terminal reaches this process alone, which passes it on once.
        self._process = subprocess.Popen(
            [sys.executable, sys.argv[0], *self._overrides],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, **told_cell(os.getpid(), self._folder)},
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        if self.asked_to_stop:  # before there was someone to pass it on to
            self._process.send_signal(signal.SIGTERM)
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def wait(self) -> tuple[int, str]:
        """Its exit code, negative for the signal that killed it, and in words why it is not 0."""
        assert self._process is not None
        code = self._process.wait()
        self._reader.join()
        return code, reason_of(code, self._last) if code else ""

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signum)

    def _read(self, stderr: Any) -> None:
        for line in stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            if line.strip():
                self._last.append(line)


def told_cell(parent: int, folder: Path) -> dict[str, str]:
    """The environment of a process that `parent` starts as the run of a cell; 0 where it does not end with that."""
    return {SWEEP_VARIABLE: f"{parent} {folder}"}


def cell_folder() -> Path | None:
    """The folder that the sweep says which has started this process; None where none has.

    From here on this process is asked to stop when the sweep has ended, however that came.
    """
    told = os.environ.pop(SWEEP_VARIABLE, None)  # the processes that a run starts are children of the run
    if not told:
        return None
    pid, _, folder = told.partition(" ")
    if int(pid):
        end_with_parent(int(pid), signal.SIGTERM)
    return Path(folder)

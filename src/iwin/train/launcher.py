"""Distributed data parallel whose processes on one machine begin and end together.

Lightning starts the other ranks of a machine as children of the first. Its own observer kills all of them,
the first one included, seconds after any has ended with a code other than 0: in the middle of a checkpoint,
where they end because they were asked to. Here the watchdog decides (iwin.train.watchdog).
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

LAUNCHER_VARIABLE = "IWIN_LAUNCHER_PID"
LAST_WORDS_S = 2.0  # for a rank that was told to write its stacks
AT_EXIT_S = 10.0  # for ranks that end as the first one does

_started: list[subprocess.Popen[bytes]] = []


class Ranks(DDPStrategy):
    """Lightning's DDP with our launcher. timeout: of the rendezvous, and of every collective."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        if self._start_method == "popen":
            self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)
        else:
            super()._configure_launcher()


class Launcher(_SubprocessScriptLauncher):
    """Starts the other ranks of this machine, unless something else does (torchrun, srun), and remembers them."""

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: lightning.Trainer | None = None, **kwargs: Any
    ) -> Any:
        """Start the other ranks, then call `function`."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
            try:
                self._call_children_scripts()
            finally:
                del os.environ[LAUNCHER_VARIABLE]
            _started[:] = self.procs
            atexit.register(end_started, AT_EXIT_S)
        if "OMP_NUM_THREADS" not in os.environ:
            cores = len(os.sched_getaffinity(0))
            torch.set_num_threads(max(1, min(torch.get_num_threads(), cores // self.num_processes)))
        return function(*args, **kwargs)


def launcher_pid() -> int | None:
    """The process that started this one as a rank; None where this is the first, or others started it."""
    told = os.environ.get(LAUNCHER_VARIABLE)
    return int(told) if told else None


def started_ranks() -> dict[int, int | None]:
    """The local ranks that this process started, each with its exit code; None while it runs."""
    return {rank: process.poll() for rank, process in enumerate(_started, start=1)}


def end_started(wait_s: float) -> None:
    """Return when the ranks that this process started have ended; after `wait_s` seconds, end them.

    One that is ended so writes its stacks to stderr first, if it still can: also a stopped one, which goes on for
    that.
    """
    deadline = time.monotonic() + wait_s
    if not _wait_until(deadline):
        for signum in (signal.SIGABRT, signal.SIGCONT):  # faulthandler writes the stacks at the first
            _send(signum)
        if not _wait_until(time.monotonic() + LAST_WORDS_S):
            _send(signal.SIGKILL)
            _wait_until(time.monotonic() + LAST_WORDS_S)


def _send(signum: signal.Signals) -> None:
    for process in _started:
        if process.poll() is None:
            process.send_signal(signum)


def _wait_until(deadline: float) -> bool:
    """Whether all have ended by then."""
    for process in _started:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
    return True

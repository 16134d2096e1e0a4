"""Signals that ask a run to stop: noted, never acted upon in a handler. And Lightning's own handlers kept out."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)
_noting: StopSignals | None = None
_forked_by: tuple[int, bool] = (0, False)  # the process that forks, and whether it does so in its main thread


class StopSignals:
    """While in a `with`, notes SIGTERM, SIGUSR1, SIGUSR2 and SIGINT in `received`.

    received: the number of the first one that came; 0 for none. A second SIGINT (Ctrl-C pressed again) raises
    KeyboardInterrupt at once. A SIGINT that this process was started to ignore stays ignored.

    Schedulers and terminals signal all processes of a job. So processes forked meanwhile, the data workers, let
    these signals pass: the process that forked them decides, and needs them until it has saved. They end with it,
    however it ends, and at a SIGTERM from it.
    """

    def __init__(self) -> None:
        self.received = 0
        self._interrupts = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        global _noting
        self.received = self._interrupts = 0
        for signum in STOPPING:
            if signum == signal.SIGINT and signal.getsignal(signum) == signal.SIG_IGN:
                continue
            self._before[signum] = signal.signal(signum, self._note)
        _noting = self
        return self

    def __exit__(self, *error: object) -> None:
        global _noting
        _noting = None
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum
        if signum == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt


def keep_lightning_out(trainer: lightning.Trainer) -> None:
    """Take Lightning's signal handlers from `trainer`, and its check for SIGTERM before each batch.

    The handlers run collectives wherever the signal finds the process, which hangs a rank that is in another
    collective. The check waits for the device at each batch, and takes any error of the collective for "no".
    Neither has a switch. Call it before the trainer runs, or from a callback's `setup`.

    Raises:
        RuntimeError: this version of Lightning has them elsewhere.
    """
    parts: Any = trainer
    loop = parts.fit_loop.epoch_loop
    if not isinstance(getattr(parts, "_signal_connector", None), _SignalConnector) or not hasattr(
        loop, "_broadcast_sigterm_tensor"
    ):
        raise RuntimeError("Lightning handles signals in another place now: see iwin.train.signals")
    parts._signal_connector = _NoHandlers(trainer)
    loop._broadcast_sigterm_tensor = _nothing


class _NoHandlers(_SignalConnector):
    def register_signal_handlers(self) -> None:
        """None: not SIGTERM's, and not those for requeueing under SLURM."""

    def teardown(self) -> None:
        """Nothing to restore."""


def _nothing() -> None:
    pass


def end_with_parent(parent: int, signum: signal.Signals = signal.SIGKILL) -> None:
    """Have the system send this process a signal when the thread that made it ends; ends where `parent` is gone."""
    _libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _before_fork() -> None:
    global _forked_by
    _forked_by = os.getpid(), threading.current_thread() is threading.main_thread()


def _after_fork_in_child() -> None:
    global _noting
    if _noting is None:
        return
    _noting = None
    parent, of_main_thread = _forked_by
    if of_main_thread:  # another thread may end before its process does
        end_with_parent(parent)
    for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    # Blocked and waited for, as torch puts a handler of its own into data workers, to which any SIGTERM is one
    # from the parent or deadly; and as only a wait tells who sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told, args=(parent,), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)

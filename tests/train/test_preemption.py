"""A run that a signal stops goes on to the same bits, wherever the signal finds it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch

import short_run
from iwin.errors import ConfigError
from iwin.train.callbacks.preemption import Preemption
from iwin.train.endings import ResumeLater
from iwin.train.signals import STOPPING, StopSignals, keep_lightning_out

ACCUMULATED = ("trainer.accumulate_grad_batches=2",)
MOMENTS = [
    "train start",
    "batch 0 of epoch 0, update 0",  # between the two batches of an update
    "batch 1 of epoch 0, update 1",
    "batch 3 of epoch 0, update 2",  # the last of the epoch
    "validation of epoch 0",
    "validation batch 0 of epoch 0",
    "validation batch 2 of epoch 0",  # the last one: the validation counts
    "end of epoch 0",
    "batch 1 of epoch 1, update 3",
    "batch 3 of epoch 1, update 4",
    "validation batch 1 of epoch 1",
]


def signal_at(moment: str, signum: signal.Signals = signal.SIGTERM, pid: int | None = None) -> Callable[[str], None]:
    """Sends this process a signal at a moment, once."""
    sent = []

    def at(event: str) -> None:
        if event == moment and not sent:
            sent.append(event)
            os.kill(pid or os.getpid(), signum)

    at.sent = sent  # type: ignore[attr-defined]
    return at


def assert_same(one: Path, one_run: lightning.Trainer, other: Path, other_run: lightning.Trainer) -> None:
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    a, b = one_run.lightning_module.state_dict(), other_run.lightning_module.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, lightning.Trainer]:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, short_run.run(folder, overrides=ACCUMULATED)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_run_goes_on_to_the_same_bits(whole, tmp_path: Path, capsys, moment: str) -> None:
    at = signal_at(moment)
    with pytest.raises(ResumeLater) as stopped:
        short_run.run(tmp_path, overrides=ACCUMULATED, at=at)
    assert at.sent
    assert stopped.value.code == 75
    assert "Stopped by SIGTERM" in capsys.readouterr().out
    assert len(list((tmp_path / "checkpoints").glob("*"))) == (moment != "train start")
    assert_same(*whole, tmp_path, short_run.run(tmp_path, overrides=ACCUMULATED))


@pytest.mark.slow
def test_a_run_that_is_stopped_at_every_moment_one_after_the_other_gets_to_the_same_end(whole, tmp_path: Path) -> None:
    stopped_at: list[str] = []

    def at(event: str) -> None:
        if event not in stopped_at:
            stopped_at.append(event)
            os.kill(os.getpid(), signal.SIGTERM)

    starts = 1
    while True:
        try:
            trainer = short_run.run(tmp_path, overrides=ACCUMULATED, at=at)
        except ResumeLater:
            starts += 1
            assert starts < 30
        else:
            break
    assert starts > 10
    assert_same(*whole, tmp_path, trainer)


def test_a_signal_in_the_last_moments_leaves_the_run_to_end(whole, tmp_path: Path) -> None:
    at = signal_at("end of epoch 1")
    trainer = short_run.run(tmp_path, overrides=ACCUMULATED, at=at)
    assert at.sent
    assert_same(*whole, tmp_path, trainer)


def test_a_broken_off_validation_leaves_no_trace_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(ResumeLater):
        short_run.run(tmp_path, at=signal_at("validation batch 0 of epoch 0"))
    assert "val/top1" not in (tmp_path / "metrics.csv").read_text()


@pytest.mark.parametrize("signum", STOPPING)
def test_a_handler_only_notes_its_signal_and_is_gone_afterwards(signum: signal.Signals) -> None:
    before = {number: signal.getsignal(number) for number in STOPPING}
    with StopSignals() as signals:
        assert signals.received == 0
        signal.raise_signal(signum)
        assert signals.received == signum
    assert {number: signal.getsignal(number) for number in STOPPING} == before


def test_ctrl_c_pressed_again_stops_at_once() -> None:
    with StopSignals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_ctrl_c_stays_ignored(monkeypatch) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.received == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_while_training_the_handlers_are_ours_alone(tmp_path: Path) -> None:
    found = []

    def at(event: str) -> None:
        found.append([getattr(signal.getsignal(number), "__qualname__", None) for number in STOPPING])

    short_run.run(tmp_path, at=at, epochs=1, batches=2)
    assert found
    assert all(names == ["StopSignals._note"] * len(STOPPING) for names in found)


def test_a_lightning_that_handles_signals_elsewhere_is_an_error() -> None:
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    del trainer._signal_connector
    with pytest.raises(RuntimeError, match="signals"):
        keep_lightning_out(trainer)


def test_data_workers_let_the_scheduler_s_signals_pass_and_end_at_their_parent_s(tmp_path: Path) -> None:
    """The signals come from another process than the parent, as a scheduler's do."""
    ready, child_ready = os.pipe()
    with StopSignals():
        worker = multiprocessing.get_context("fork").Process(target=_says_ready_and_waits, args=(child_ready,))
        worker.start()
        assert os.read(ready, 1)
        assert worker.pid is not None
        for signum in STOPPING:
            other = multiprocessing.get_context("fork").Process(target=os.kill, args=(worker.pid, signum))
            other.start()
            other.join()
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == 0


def _says_ready_and_waits(ready: int) -> None:
    os.write(ready, b".")
    signal.pause()


def test_a_forked_process_does_not_outlive_its_parent() -> None:
    """Also where the parent is killed, which can tell nobody."""
    told, tell = os.pipe()

    def forks_and_is_killed() -> None:
        with StopSignals():
            child = multiprocessing.get_context("fork").Process(target=signal.pause)
            child.start()
            os.write(tell, f"{child.pid}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    parent = multiprocessing.get_context("fork").Process(target=forks_and_is_killed)
    parent.start()
    with os.fdopen(told) as lines:
        orphan = int(lines.readline())
        parent.join()
        assert _ends(orphan)


def _ends(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process that need not be ours ends in time."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(multiprocessing.connection.wait([watched], timeout=within_s))
    finally:
        os.close(watched)


@pytest.mark.parametrize("every", ["0st", "26st", "often", "1ep", 10])
def test_a_rhythm_that_cannot_be_used_is_refused(every: object) -> None:
    with pytest.raises(ConfigError, match=r"preemption\.every="):
        Preemption(every=every)  # type: ignore[arg-type]

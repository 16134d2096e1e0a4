"""A process that hangs is ended, with its stacks; one that works, waits its turn or was stopped is not."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import pytest
import torch.distributed

import short_run
from iwin.errors import ConfigError
from iwin.train.callbacks.heartbeat import Heartbeat
from iwin.train.endings import Ended, ending_of
from iwin.train.watchdog import TICK_S, Watchdog, stack_file


class Dog:
    """A watchdog whose time the test makes, and whose process goes on after it was ended."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.codes: list[int] = []
        self.watchdog = Watchdog(folder, clock=lambda: self.now, end=self.codes.append)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            if not self.codes:
                self.watchdog.look()


@pytest.fixture
def dog(tmp_path: Path) -> Dog:
    return Dog(tmp_path)


def test_a_process_without_a_sign_of_life_is_ended_with_all_its_stacks(dog: Dog, tmp_path: Path, capfd) -> None:
    waits, said = threading.Event(), threading.Event()

    def stands_here() -> None:
        said.set()
        waits.wait()

    thread = threading.Thread(target=stands_here)
    thread.start()
    said.wait()
    dog.watchdog.beat("training, after update 7", 10.0)
    dog.pass_time(10.0)
    assert dog.codes == []
    dog.pass_time(2.0)
    assert dog.codes == [69]
    waits.set()
    thread.join()
    for text in (stack_file(tmp_path, 0).read_text(), capfd.readouterr().err):
        assert "while training, after update 7" in text
        assert "stands_here" in text, "another thread's stack"
        assert "pass_time" in text, "the main thread's stack"


def test_signs_of_life_keep_a_process_alive_and_each_sets_the_next_limit(dog: Dog) -> None:
    for _ in range(20):
        dog.watchdog.beat("training", 5.0)
        dog.pass_time(4.0)
    dog.watchdog.beat("saving a checkpoint", 60.0)
    dog.pass_time(55.0)
    assert dog.codes == []
    dog.watchdog.beat("training", 5.0)
    dog.pass_time(7.0)
    assert dog.codes == [69]


def test_time_in_which_the_process_was_stopped_does_not_count(dog: Dog) -> None:
    dog.watchdog.beat("training", 10.0)
    dog.pass_time(5.0)
    dog.now += 3600.0  # a job that was suspended
    dog.pass_time(3.0)
    assert dog.codes == []


def test_it_has_no_limit_before_the_first_sign(dog: Dog) -> None:
    dog.pass_time(1000.0)
    assert dog.codes == []


def test_a_rank_ends_with_the_one_that_started_it(dog: Dog, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("IWIN_LAUNCHER_PID", str(os.getppid()))
    dog.pass_time(5.0)
    assert dog.codes == []
    monkeypatch.setenv("IWIN_LAUNCHER_PID", "1" if os.getppid() != 1 else "2")  # as where that one is gone
    dog.pass_time(5.0)
    assert dog.codes == [69]
    assert "rank 0, which started this process, has ended" in stack_file(tmp_path, 0).read_text()


@pytest.mark.parametrize(
    ("code", "ended"), [(None, []), (0, []), (75, []), (1, [69]), (-9, [69]), (71, [71]), (2, [2])]
)
def test_a_rank_that_failed_ends_the_one_that_started_it_unless_it_was_asked_to(
    dog: Dog, monkeypatch, code: int | None, ended: list[int]
) -> None:
    monkeypatch.setattr("iwin.train.watchdog.started_ranks", lambda: {1: None, 2: code})
    monkeypatch.setattr("iwin.train.watchdog.end_started", lambda wait_s: None)
    dog.pass_time(4.0)
    assert dog.codes == [], "it may end by itself, and say why"
    dog.pass_time(4.0)
    assert dog.codes == ended


@pytest.mark.parametrize("key", ["setup_s", "training_s"])
@pytest.mark.parametrize("value", [0, -1, "long"])
def test_limits_that_cannot_be_used_are_refused(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        Heartbeat(tmp_path, **{key: value})  # type: ignore[arg-type]


def test_losses_of_processes_are_told_from_defects() -> None:
    killed = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    code, message = ending_of(killed, 1) or (0, "")
    assert code == 71
    assert "process 12 is killed by signal: Killed)" in message
    lost = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer [::1]:4")
    assert (ending_of(lost, 2) or (0, ""))[0] == 69
    assert (ending_of(torch.distributed.DistBackendError("NCCL error"), 2) or (0, ""))[0] == 69
    assert ending_of(lost, 1) is None
    assert ending_of(RuntimeError("shapes do not match"), 2) is None
    after = RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")
    after.__cause__ = killed
    assert ending_of(after, 1) == (code, message)


def test_a_killed_data_worker_ends_the_run_with_a_message_and_it_goes_on(tmp_path: Path, capfd) -> None:
    sent: list[int] = []
    others = _children()  # that earlier tests have left

    def at(event: str) -> None:
        if event == "batch 1 of epoch 1, update 6":
            (worker,) = [pid for pid in _children() if pid not in others]
            sent.append(worker)
            os.kill(worker, signal.SIGKILL)
            threading.Event().wait(10.0)  # the news of its end interrupts it

    one_worker = ("data.num_workers=1",)
    with pytest.raises(Ended) as ended:
        short_run.run(tmp_path, overrides=one_worker, at=at, validate=False)
    assert sent
    assert ended.value.code == 71
    message = capfd.readouterr().err
    how = "is killed by signal: Killed|exited unexpectedly"  # as torch looks at its end, or is told of it first
    assert re.search(rf"process {sent[0]} ({how})", message)
    assert "The same command goes on" in message
    trainer = short_run.run(tmp_path, overrides=one_worker, validate=False)
    assert trainer.global_step == 8


def _children() -> list[int]:
    """The processes that this one has started, and that run."""
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]

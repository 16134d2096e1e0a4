"""Two ranks: what they compute, how they agree to stop, and what becomes of them when one is lost."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[1] / "short_run.py"
PLAIN = ("augment.mixup=0", "augment.cutmix=0", "model.drop_path_rate=0", "task.label_smoothing=0")
PATIENCE_S = 300.0  # an upper bound for machines under load; nothing waits for it to pass

pytestmark = pytest.mark.slow


class Run:
    """short_run.py as a program. What it prints is read line by line."""

    def __init__(self, folder: Path, **told: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr.txt").open("a"),
            bufsize=0,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.pids: dict[int, int] = {}
        self.lines: list[str] = []

    def until(self, event: str) -> None:
        """Read on until `event` is told."""
        while self._line() != event:
            pass

    def _line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        line = self.process.stdout.readline().decode().strip() if ready else ""
        assert line, f"nothing came: {self.lines[-3:]}\n{self.errors()}"
        self.lines.append(line)
        if line.startswith("rank "):
            _, rank, _, pid = line.split()
            self.pids[int(rank)] = int(pid)
        return line

    def go_on(self) -> None:
        """Past the event that it waits at."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def end(self, within_s: float = PATIENCE_S) -> int:
        """The exit code, once it has ended."""
        rest, _ = self.process.communicate(timeout=within_s)
        self.lines += rest.decode().splitlines()
        for line in self.lines:
            if line.startswith("rank ") and " is " in line:
                self.pids[int(line.split()[1])] = int(line.split()[3])
        return self.process.returncode

    def errors(self) -> str:
        return (self.folder / "stderr.txt").read_text()

    def stacks(self, rank: int) -> str:
        return (self.folder / "stacks" / f"rank-{rank}.txt").read_text()

    def record(self, rank: int) -> dict[str, Any]:
        return json.loads((self.folder / f"record-{rank}.json").read_text())

    def group(self) -> list[int]:
        """The processes of the run that there still are, data workers included."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if int(session) == self.process.pid and state != "Z":
                    found.append(int(entry.name))
        return found

    def ended_without_orphans(self, within_s: float = 15.0) -> bool:
        for pid in self.group():
            try:
                watched = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            ended, _, _ = select.select([watched], [], [], within_s)
            os.close(watched)
            if not ended:
                return False
        return True

    def kill(self) -> None:
        for pid in self.group():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Start a run below tmp_path; what is left of it at the end is killed."""
    runs: list[Run] = []

    def begin(where: str = "run", **told: Any) -> Run:
        runs.append(Run(tmp_path / where, **told))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


STOPPED = {"ranks": 2, "every": 2, "overrides": ["data.num_workers=1", "data.eval_batch_size=40"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two ranks that nothing disturbed."""
    run = Run(tmp_path_factory.mktemp("whole"), **STOPPED)
    assert run.end() == 0, run.errors()
    return run


def test_two_ranks_compute_what_one_does(start) -> None:
    one = start("one", overrides=["data.batch_size=32", *PLAIN])
    assert one.end() == 0, one.errors()
    two = start("two", overrides=PLAIN, ranks=2)
    assert two.end() == 0, two.errors()
    alone, ranks = one.record(0), [two.record(0), two.record(1)]
    assert len(alone["batches"]) == 8
    for (step, samples, loss), *parts in zip(alone["batches"], *(rank["batches"] for rank in ranks), strict=True):
        assert [part[0] for part in parts] == [step, step]
        assert samples == [sample for part in parts for sample in part[1]]
        assert sum(part[2] for part in parts) / 2 == pytest.approx(loss, rel=1e-5)
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["validated"] == ranks[1]["validated"]


def test_metrics_over_uneven_shards_are_those_of_one_process(start) -> None:
    """359 images: 180 and 179 on two ranks, in three batches each or two. The weights are the initial ones."""
    still = [*PLAIN, "optimizer.lr=1e-12", "schedule.warmup_lr=0", "schedule.min_lr=0", "data.eval_batch_size=90"]
    one = start("one", overrides=["data.batch_size=32", *still], epochs=1)
    assert one.end() == 0, one.errors()
    two = start("two", overrides=still, ranks=2, epochs=1)
    assert two.end() == 0, two.errors()
    (alone,), (together,) = one.record(0)["validated"], two.record(0)["validated"]
    assert together["val/top1"] == alone["val/top1"]
    assert together["val/top5"] == alone["val/top5"]
    assert together["val/loss"] == pytest.approx(alone["val/loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("moment", "signum", "everyone"),
    [
        ("batch 0 of epoch 0, update 1", signal.SIGTERM, False),
        ("batch 1 of epoch 1, update 6", signal.SIGINT, True),
        ("validation batch 0 of epoch 0", signal.SIGUSR1, True),
    ],
)
def test_ranks_stop_after_the_same_update_and_go_on_to_the_same_bits(
    start, whole: Run, moment: str, signum: signal.Signals, everyone: bool
) -> None:
    run = start(pause=moment, **STOPPED)
    run.until(moment)
    os.killpg(run.process.pid, signum) if everyone else os.kill(run.process.pid, signum)
    run.go_on()
    assert run.end() == 75, run.errors()
    assert sum("Stopped by" in line for line in run.lines) == 1
    assert run.ended_without_orphans()
    assert len(list((run.folder / "checkpoints").glob("*.ckpt"))) == 1
    resumed = start(**STOPPED)
    assert resumed.end() == 0, resumed.errors()
    assert resumed.record(0)["weights"] == whole.record(0)["weights"]
    assert (resumed.folder / "metrics.csv").read_text() == (whole.folder / "metrics.csv").read_text()


LIMITS = {"ranks": 2, "training_s": 8.0, "setup_s": 120.0, "epochs": 3, "batches": 40}
MOMENT = "batch 1 of epoch 0, update 2"


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_lost_ends_the_others_with_their_stacks(start, lost: int, how: signal.Signals) -> None:
    run = start(pause=MOMENT, overrides=["data.num_workers=1"], **LIMITS)
    run.until(MOMENT)
    while len(run.pids) < 2:
        run._line()
    watched = os.pidfd_open(run.pids[1 - lost])
    os.kill(run.pids[lost], how)
    run.go_on()
    ended, _, _ = select.select([watched], [], [], LIMITS["training_s"] + 30.0)
    os.close(watched)
    assert ended, "the other rank"
    if how == signal.SIGSTOP and lost == 0:
        os.kill(run.pids[0], signal.SIGCONT)  # nobody else may end the process that was started by hand
    code = run.end(30.0)
    assert code == (-signal.SIGKILL if (how, lost) == (signal.SIGKILL, 0) else 69), run.errors()
    assert run.ended_without_orphans()
    for text in (run.stacks(1 - lost), run.errors()):
        assert f"--- rank {1 - lost}" in text
        assert "most recent call" in text
        assert "watchdog" in text or "heartbeat" in text


def test_the_loss_of_a_rank_s_data_worker_ends_the_run_which_says_so(start) -> None:
    run = start(pause=MOMENT, overrides=["data.num_workers=1"], validate=False, **LIMITS)
    run.until(MOMENT)
    while len(run.pids) < 2:
        run._line()
    rank = run.pids[1]
    (worker,) = Path(f"/proc/{rank}/task/{rank}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    run.go_on()
    assert run.end(15.0) == 71, run.errors()
    assert f"rank 1: a data worker is lost (process {worker} is killed by signal: Killed)" in run.errors()
    assert run.ended_without_orphans()


def test_ranks_that_are_about_to_run_something_else_do_not_start(start) -> None:
    facts = {"configuration": {"seed": 0}, "code": {"commit": "1f"}, "data": {"root": "/a", "shards": ["x", "y"]}}
    other = {"configuration": {"seed": 0}, "code": {"commit": "1f"}, "data": {"root": "/b", "shards": ["x", "z"]}}
    run = start(ranks=2, facts=facts, of_rank={"1": {"facts": other}})
    assert run.end() == 2
    errors = run.errors()
    assert errors.count("rank 1 is about to run something else than rank 0: data.shards[1] is 'z', at rank 0 'y'") == 2
    assert "data.root" not in errors
    assert not any("update" in line for line in run.lines)
    assert run.ended_without_orphans()

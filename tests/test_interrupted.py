"""The programs under signals, as a user and a scheduler see them: the exit code, and the same command again."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).parents[1]
SHORT = (
    "duration=2ep",
    "trainer.limit_train_batches=8",
    "log_every=1st",
    "schedule.warmup=1st",
    "data.batch_size=16",
    "+callbacks.progress.every_s=0",
    "callbacks.preemption.every=2st",
)
TWO_RANKS = ("trainer.devices=2", "trainer.accelerator=cpu", "data.num_workers=0")
PATIENCE_S = 300.0

pytestmark = pytest.mark.slow


def started(runs: Path, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "train.py", f"paths.runs_dir={runs}", *SHORT, *args],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=(runs.parent / "stderr.txt").open("a"),
        bufsize=0,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def until(process: subprocess.Popen[bytes], said: str) -> None:
    assert process.stdout is not None
    while True:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        line = process.stdout.readline().decode() if ready else ""
        assert line, f"{said!r} did not come"
        if said in line:
            return


def newest(runs: Path) -> dict[str, torch.Tensor]:
    (folder,) = runs.iterdir()
    last = max(folder.glob("checkpoints/update-*.ckpt"))
    return torch.load(last, weights_only=True)["state_dict"]


@pytest.mark.parametrize(("signum", "ranks"), [(signal.SIGTERM, ()), (signal.SIGINT, TWO_RANKS)])
def test_a_stopped_command_says_resume_me_and_goes_on_to_the_same_bits(
    tmp_path: Path, signum: signal.Signals, ranks: tuple[str, ...]
) -> None:
    runs, whole = tmp_path / "runs", tmp_path / "whole"
    process = started(runs, *ranks)
    until(process, "update 3/16")
    if signum == signal.SIGINT:
        os.killpg(process.pid, signum)
    else:
        os.kill(process.pid, signum)
    printed, _ = process.communicate(timeout=PATIENCE_S)
    errors = (tmp_path / "stderr.txt").read_text()
    assert process.returncode == 75, errors
    assert "Everything is saved: the same command goes on from there" in printed.decode()
    assert not errors
    (folder,) = runs.iterdir()
    assert not (folder / "result.json").exists()
    again = started(runs, *ranks)
    printed, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, (tmp_path / "stderr.txt").read_text()
    assert "going on from checkpoints/update-" in " ".join(printed.decode().split())
    undisturbed = started(whole, *ranks)
    undisturbed.communicate(timeout=PATIENCE_S)
    assert undisturbed.returncode == 0
    a, b = newest(runs), newest(whole)
    assert all(torch.equal(a[name], b[name]) for name in a)
    (other,) = whole.iterdir()
    assert (folder / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


def test_a_killed_data_worker_ends_the_command_with_a_message_and_it_goes_on(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = started(runs, "data.num_workers=1")
    until(process, "update 9/16")
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    process.communicate(timeout=10.0 + 20.0)
    errors = (tmp_path / "stderr.txt").read_text()
    assert process.returncode == 71, errors
    assert "a data worker is lost" in errors
    assert "Traceback" not in errors
    again = started(runs, "data.num_workers=1")
    printed, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0
    assert "going on from checkpoints/update-00000008.ckpt" in " ".join(printed.decode().split())

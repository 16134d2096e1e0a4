"""Killed at random moments and after every update, a run comes to the same bits; and a run that does not is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from iwin.tools.stress.starts import StressError
from iwin.tools.stress.trial import Lost, lost_updates, newest_checkpoint, weights_hash
from iwin.train.callbacks.witness import Begun, read_account

CHECKOUT = Path(__file__).parents[1]
STRESS = "from iwin.tools.cli import main; import sys; sys.exit(main(['stress', *sys.argv[1:]]))"


def stress(*args: str, before: str = "", timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    """`iwin stress ARGS` in a process of its own; `before`: Python to run in it first."""
    command = [sys.executable, "-c", f"{before}\n{STRESS}", *args]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=timeout_s, check=False)


def account(path: Path, *lines: str):
    path.write_text("".join(f"{line}\n" for line in lines))
    return read_account(path)


def test_the_witness_of_several_starts_is_one_account(tmp_path: Path) -> None:
    told = account(
        tmp_path / "witness.txt",
        *("start 0", "batch 1 0 aa", "batch 1 1 ab", "done 1", "save 1", "save 1", "batch 2 0 ba"),
        *("start 1", "batch 2 0 ba", "batch 2 1 bb", "done 2", "end 2"),
    )
    assert told.begun == [Begun(0, 1, (1,)), Begun(1, 2, ())]
    assert told.batches == {(1, 0): "aa", (1, 1): "ab", (2, 0): "ba", (2, 1): "bb"}
    assert not told.differing
    other = account(tmp_path / "other.txt", "start 0", "batch 1 0 aa", "start 0", "batch 1 0 ab", "batch 1 0 aa")
    assert other.differing == {(1, 0)}, "also where the last time was right"
    assert read_account(tmp_path / "none.txt").begun == []


def test_one_save_may_be_lost_and_no_two(tmp_path: Path) -> None:
    def lost(at: int) -> list[Lost]:
        begun = ("start 0", "done 4", "save 4", "done 8", "save 8", "done 9")
        return lost_updates(account(tmp_path / "witness.txt", *begun, f"start {at}"), tmp_path)

    assert lost(8) == [Lost(1, unwritten=False)]
    assert lost(4) == [Lost(5, unwritten=True)]
    for at in (0, 9):
        with pytest.raises(StressError, match=f"went on from {at}"):
            lost(at)


def test_the_hash_is_of_every_tensor_of_the_newest_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()

    def checkpoint(step: int, momentum: float) -> dict:
        state = [{"state": {0: {"exp_avg": torch.tensor([momentum], dtype=torch.bfloat16)}}}]
        return {"global_step": step, "state_dict": {"w": torch.ones(2, 3).t()}, "optimizer_states": state, "loops": {}}

    for step, momentum in ((3, 0.5), (12, 0.25)):
        torch.save(checkpoint(step, momentum), tmp_path / "checkpoints" / f"{step}.ckpt")
    newest = weights_hash(newest_checkpoint(tmp_path))
    assert newest == weights_hash(checkpoint(99, 0.25))
    assert newest != weights_hash(checkpoint(12, 0.2500001 * 1.01))


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "precision"), [(50, "32-true"), (10, "bf16-mixed")])
def test_kills_at_random_moments_cost_nothing(kills: int, precision: str) -> None:
    done = stress("--kills", str(kills), "--precision", precision)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills" in done.stdout
    assert "identical" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_kill_after_any_update_costs_nothing(workers: str) -> None:
    done = stress("--every-update", "--save-every", "1", "--workers", workers)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 kills in 16 runs" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        # What is drawn depends on the process, as where a generator's state is not restored.
        (
            "import os, iwin.train.task as task; right = task.seed_at\n"
            "task.seed_at = lambda seed, *place: right(seed + os.getpid(), *place)",
            "the final weights",
        ),
        # A checkpoint is written and never gone on from.
        (
            "import iwin.train.resume_point as point, iwin.train.recovery as recovery\n"
            "point.recover = lambda folder: recovery.Recovery(None)",
            "more than one save is lost",
        ),
    ],
    ids=["draws", "recovery"],
)
def test_a_run_that_is_not_the_same_is_found(broken: str, said: str, tmp_path: Path) -> None:
    done = stress("--every-update", "--save-every", "1", "--keep", str(tmp_path / "runs"), before=broken)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.slow
def test_what_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    done = stress("--kills", "0", "--keep", str(tmp_path))
    assert done.returncode == 2
    assert "--kills must be a whole number of at least 1, got 0" in done.stderr

"""What a run asks of the earlier starts of its Slurm job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from iwin.errors import ConfigError
from iwin.train.slurm import (
    MOST_STARTS,
    SUBMITTED_VARIABLE,
    changed_code,
    check_progress,
    check_restarts,
    described,
    earlier_starts,
    job_folders,
    this_job,
)

CODE = {"commit": "1" * 40, "dirty": False, "changes": None}
LATER = {"commit": "2" * 40, "dirty": True, "changes": "abcdef0123456789"}


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch):
    """Be in job 12, which was restarted so often."""

    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)

    def so_often(restarts: int) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))

    return so_often


def starts(folder: Path, *begun: tuple[int, str | None], job: str = "12", code: Any = CODE) -> None:
    """begun: for each start, after how many restarts and at which checkpoint."""
    folder.mkdir(exist_ok=True)
    listed = [{"checkpoint": at, "slurm": {"name": job, "restarts": n}, "code": code} for n, at in begun]
    (folder / "provenance.json").write_text(json.dumps({"starts": listed}))


def each_restart(checkpoint: str | None, count: int) -> Sequence[tuple[int, str | None]]:
    return [(restarts, checkpoint) for restarts in range(count)]


def test_a_job_that_gets_no_further_ends(restarted, tmp_path: Path) -> None:
    restarted(MOST_STARTS)
    starts(tmp_path, *each_restart("a.ckpt", MOST_STARTS))
    check_progress(tmp_path, "b.ckpt")
    with pytest.raises(ConfigError, match=f"Slurm job 12 has started {MOST_STARTS} times from a.ckpt"):
        check_progress(tmp_path, "a.ckpt")
    starts(tmp_path, *each_restart("a.ckpt", MOST_STARTS - 1))
    check_progress(tmp_path, "a.ckpt")
    starts(tmp_path, *each_restart("a.ckpt", MOST_STARTS), job="11")
    check_progress(tmp_path, "a.ckpt")


def test_commands_in_one_start_of_a_job_are_no_requeues(restarted, tmp_path: Path) -> None:
    """As given one after the other to salloc; or as a run begins anew that has rolled back."""
    restarted(0)
    starts(tmp_path, *[(0, None)] * 2 * MOST_STARTS)
    check_progress(tmp_path, None)
    assert earlier_starts(tmp_path) == []
    restarted(1)
    check_progress(tmp_path, None)
    assert len(earlier_starts(tmp_path)) == 2 * MOST_STARTS


def test_a_job_whose_run_never_begins_ends(restarted, tmp_path: Path) -> None:
    """What is killed before it writes that it has started."""
    restarted(MOST_STARTS - 1)
    check_restarts(tmp_path)
    restarted(MOST_STARTS)
    with pytest.raises(ConfigError, match=f"was requeued {MOST_STARTS} times and its run has never begun"):
        check_restarts(tmp_path)
    starts(tmp_path / "of another command", (0, None))
    check_restarts(tmp_path)
    restarted(MOST_STARTS + 1)
    with pytest.raises(ConfigError, match=f"was requeued {MOST_STARTS + 1} times since its run last began"):
        check_restarts(tmp_path)
    starts(tmp_path / "of another command", (1, None))
    check_restarts(tmp_path)


def test_how_often_another_job_was_requeued_says_nothing(restarted, tmp_path: Path, monkeypatch) -> None:
    """sbatch hands that on to jobs that are submitted from within it, and Slurm itself knows better."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\necho JobId=12 Restarts=0\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:/usr/bin:/bin")
    restarted(MOST_STARTS + 2)
    check_restarts(tmp_path)
    starts(tmp_path, (MOST_STARTS + 2, None))
    assert earlier_starts(tmp_path) == []
    restarted(1)
    assert len(earlier_starts(tmp_path)) == 1, "it was requeued itself by now"


def test_runs_of_others_do_not_matter_however_they_are(restarted, tmp_path: Path) -> None:
    restarted(1)
    starts(tmp_path / "ours", (0, None))
    starts(tmp_path / "another job's", (0, None), job="11")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "provenance.json").write_text("{")
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "provenance.json").write_text("{}")
    assert list(job_folders(tmp_path)) == [tmp_path / "ours"]


def test_a_job_is_known_by_its_number(restarted, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says that it is an array's task is handed on to jobs that are submitted from within that."""
    restarted(2)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    job = this_job()
    assert job is not None
    assert (job.name, job.restarts) == ("12", 2)


def test_other_code_than_was_submitted_is_named(restarted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restarted(2)
    assert changed_code(tmp_path, CODE) is None
    starts(tmp_path, (0, None), (1, "a.ckpt"))
    assert changed_code(tmp_path, CODE) is None
    assert "first started: 1111111111 then, 2222222222 with changes abcdef01" in (changed_code(tmp_path, LATER) or "")
    monkeypatch.setenv(SUBMITTED_VARIABLE, json.dumps(LATER))
    assert changed_code(tmp_path, LATER) is None
    assert "was submitted: 2222222222 with changes abcdef01 then, 1111111111" in (changed_code(tmp_path, CODE) or "")
    assert described() == {"slurm": {"name": "12", "restarts": 2, "submitted_code": LATER}}


def test_outside_of_slurm_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    starts(tmp_path, *[(0, None)] * 9)
    check_progress(tmp_path, None)
    check_restarts(tmp_path)
    assert earlier_starts(tmp_path) == []
    assert changed_code(tmp_path, LATER) is None
    assert described() == {}

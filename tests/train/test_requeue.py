"""The end of a batch script: whether the job goes on, asked of a Slurm that only answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iwin import exit_codes
from iwin.train import requeue

SCONTROL = """#!/bin/sh
echo "$@" >> {calls}
[ "$1" = requeue ] && exit {refuses}
number={JobId}
[ "$4" = 14 ] && number=14
[ "$number" = gone ] && echo "slurm_load_jobs error: Invalid job id specified" >&2 && exit 1
echo "JobId=$number JobState={JobState} Restarts={Restarts} Requeue={Requeue} RunTime={RunTime} TimeLimit={TimeLimit}"
"""
# JobId: of 12_1, whose task the job of these tests is, unless another number is given. It is 14 itself.
RUNNING = {"JobId": 14, "JobState": "RUNNING", "Restarts": 2, "Requeue": 1}
RUNNING |= {"RunTime": "00:10:00", "TimeLimit": "1-00:00:00"}


@pytest.fixture
def end(tmp_path: Path):
    """End a batch script with a code; returns its exit code, what Slurm was asked to do, and what the cell was left."""

    def call(code: int, refuses: int = 0, cells: int = 2, **facts: Any) -> tuple[int, list[str], dict[str, Any] | None]:
        calls = tmp_path / "calls"
        calls.write_text("")
        program = tmp_path / "scontrol"
        program.write_text(SCONTROL.format(calls=calls, refuses=refuses, **{**RUNNING, **facts}))
        program.chmod(0o755)
        log = tmp_path / ("12_1_0_log.err" if cells == 2 else "14_0_log.err")
        log.write_text("a warning\nerror: the second last\nerror: the last\nsrun: error: x\n")
        folders = [str(tmp_path / "cell-a"), str(tmp_path / "cell-b")][-cells:]
        (tmp_path / "cells.json").write_text(json.dumps({"logs": str(tmp_path), "folders": folders}))
        job = {"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": "2"}
        done = subprocess.run(
            [sys.executable, requeue.__file__, str(code), "--cells", str(tmp_path / "cells.json")],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **job},
            capture_output=True,
            text=True,
        )
        asked = [line for line in calls.read_text().splitlines() if line.startswith("requeue")]
        assert "Traceback" not in done.stderr
        ended = tmp_path / "cell-b" / requeue.ENDED
        assert not (tmp_path / "cell-a").exists()
        return done.returncode, asked, json.loads(ended.read_text()) if ended.exists() else None

    return call


def test_the_codes_are_those_of_the_programs() -> None:
    goes_on = {exit_codes.RANK_LOST, exit_codes.WORKER_LOST, exit_codes.RESUME}
    assert set(requeue.GOES_ON) == goes_on
    assert not any(requeue.goes_on(code) for code in range(128) if code not in goes_on)
    assert requeue.goes_on(137)
    assert not requeue.goes_on(255)


@pytest.mark.parametrize("code", [75, 69, 71, 137])
def test_a_run_that_goes_on_is_requeued_by_the_name_of_its_task(end, code: int) -> None:
    assert end(code) == (code, ["requeue 12_1"], None)


def test_a_job_that_was_submitted_from_within_a_restarted_one_is_requeued(end) -> None:
    """Which hands on how often it was restarted, to a job that was not."""
    assert end(75, Restarts=0) == (75, ["requeue 12_1"], None)


@pytest.mark.parametrize("its_job", [13, "gone"])
def test_a_job_that_was_submitted_from_within_an_array_is_not_taken_for_the_task(end, its_job: int | str) -> None:
    """sbatch hands on the variables of the task, whose requeue would kill it."""
    assert end(75, JobId=its_job) == (75, ["requeue 14"], None)


def test_the_only_cell_of_a_sweep_is_found_there_too(end) -> None:
    assert end(2, cells=1) == (2, [], {"state": "failed", "reason": "the last", "exit_code": 2})


@pytest.mark.parametrize(("code", "ended"), [(0, None), (2, "failed"), (1, "failed")])
def test_a_run_that_is_done_or_has_failed_is_not(end, code: int, ended: str | None) -> None:
    left = None if ended is None else {"state": ended, "reason": "the last", "exit_code": code}
    assert end(code) == (code, [], left)


def test_a_job_that_others_have_requeued_is_left_to_them(end) -> None:
    assert end(75, JobState="COMPLETING", Restarts=3) == (75, [], None)
    assert end(75, Restarts=3) == (75, [], None)


def test_a_cancelled_job_stays_so_and_one_whose_time_is_over_goes_on(end) -> None:
    code, asked, ended = end(75, JobState="COMPLETING")
    assert (code, asked) == (75, [])
    assert ended is not None
    assert ended["state"] == "stopped"
    assert "it was cancelled" in ended["reason"]
    assert end(75, JobState="COMPLETING", TimeLimit="00:10:00")[1] == ["requeue 12_1"]


def test_what_must_or_can_not_be_requeued_is_said(end) -> None:
    for given_facts, why in (({"Requeue": 0}, "--no-requeue"), ({"refuses": 1}, "scontrol requeue 12_1: 1")):
        code, _, ended = end(75, **given_facts)
        assert code == 75
        assert ended is not None
        assert ended["state"] == "stopped"
        assert why in ended["reason"]


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_slurm_s_times_in_seconds(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:{seconds:02}"
    assert requeue.seconds_of(text) == days * 86400 + hours * 3600 + minutes * 60 + seconds
    assert requeue.seconds_of("UNLIMITED") is None

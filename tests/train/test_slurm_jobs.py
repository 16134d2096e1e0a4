"""What a run asks of the earlier starts of its Slurm job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iwin.errors import ConfigError
from iwin.train.slurm import MOST_STARTS, SUBMITTED_VARIABLE, changed_code, check_progress, described, finished_run

CODE = {"commit": "1" * 40, "dirty": False, "changes": None}
LATER = {"commit": "2" * 40, "dirty": True, "changes": "abcdef0123456789"}


@pytest.fixture
def in_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "12", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3", "RESTART_COUNT": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def starts(folder: Path, *checkpoints: str | None, job: str = "12_3", code: Any = CODE) -> None:
    folder.mkdir(exist_ok=True)
    begun = [{"checkpoint": one, "slurm": {"name": job}, "code": code} for one in checkpoints]
    (folder / "provenance.json").write_text(json.dumps({"starts": begun}))


def test_a_job_that_gets_no_further_ends(in_job: None, tmp_path: Path) -> None:
    starts(tmp_path, *["a.ckpt"] * MOST_STARTS)
    check_progress(tmp_path, "b.ckpt")
    with pytest.raises(ConfigError, match=f"12_3 has started {MOST_STARTS} times from a.ckpt"):
        check_progress(tmp_path, "a.ckpt")
    starts(tmp_path, *["a.ckpt"] * (MOST_STARTS - 1))
    check_progress(tmp_path, "a.ckpt")
    starts(tmp_path, *["a.ckpt"] * MOST_STARTS, job="11")
    check_progress(tmp_path, "a.ckpt")


def test_a_job_that_was_requeued_after_its_end_finds_it(in_job: None, tmp_path: Path) -> None:
    first, second = tmp_path / "run", tmp_path / "run-2"
    assert finished_run(first) is None
    starts(first, None, job="11")
    (first / "result.json").touch()
    assert finished_run(first) is None
    starts(second, None)
    assert finished_run(first) is None
    (second / "result.json").touch()
    assert finished_run(first) == second


def test_other_code_than_was_submitted_is_named(in_job: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert changed_code(tmp_path, CODE) is None
    starts(tmp_path, None, "a.ckpt")
    assert changed_code(tmp_path, CODE) is None
    assert "first started: 1111111111 then, 2222222222 with changes abcdef01" in (changed_code(tmp_path, LATER) or "")
    monkeypatch.setenv(SUBMITTED_VARIABLE, json.dumps(LATER))
    assert changed_code(tmp_path, LATER) is None
    assert "was submitted: 2222222222 with changes abcdef01 then, 1111111111" in (changed_code(tmp_path, CODE) or "")
    assert described() == {"slurm": {"name": "12_3", "restarts": 2, "submitted_code": LATER}}


def test_outside_of_slurm_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    starts(tmp_path, *[None] * 9)
    (tmp_path / "result.json").touch()
    check_progress(tmp_path, None)
    assert finished_run(tmp_path) is None
    assert changed_code(tmp_path, LATER) is None
    assert described() == {}

"""Who has the folder of a run, and who waits for it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from iwin.errors import ConfigError
from iwin.train import folder_lock, run_folder
from iwin.train.folder_lock import LOCK, Held, hold, wait_for
from iwin.train.run_folder import RunFolder


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait ends at once, after one look."""
    monkeypatch.setattr(folder_lock, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(run_folder, "MOMENT_S", 0.0)
    monkeypatch.setattr(run_folder, "WAIT_S", 0.0)
    monkeypatch.delenv("IWIN_RUN_FOLDER", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")


def begun(folder: Path, restarts: int, job: str = "12") -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    start = {"slurm": {"name": job, "restarts": restarts}, "checkpoint": None}
    (folder / "provenance.json").write_text(json.dumps({"starts": [start]}))


def test_the_one_that_holds_it_says_who_it_is(tmp_path: Path, requeued: None) -> None:
    with hold(tmp_path, 0.0), pytest.raises(Held, match=rf"process {os.getpid()} on \S+, Slurm job 12$"):
        hold(tmp_path, 0.0)
    hold(tmp_path, 0.0).close()


def test_a_job_that_was_requeued_waits_for_its_own_folder_and_begins_no_other(tmp_path: Path, requeued: None) -> None:
    first = tmp_path / "run"
    begun(first, restarts=0)
    with hold(first, 0.0), pytest.raises(ConfigError, match=rf"run, is still held by process {os.getpid()} on"):
        RunFolder.take(first, 0)
    assert not (tmp_path / "run-2").exists()
    with RunFolder.take(first, 0) as taken:
        assert taken.path == first


def test_it_goes_on_as_soon_as_its_folder_is_free(
    tmp_path: Path, requeued: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(run_folder, "WAIT_S", 3600.0)
    first = tmp_path / "run"
    begun(first, restarts=0)
    held = hold(first, 0.0)
    with RunFolder.take(first, 0, meanwhile=held.close) as taken:
        assert (taken.path, taken.leads) == (first, True)
    assert "for 3600 s at most: it is held by process" in capsys.readouterr().out


def test_it_prefers_its_own_folder_to_that_of_another_job(tmp_path: Path, requeued: None) -> None:
    """Which it had passed over, as that was running then."""
    begun(tmp_path / "run", restarts=0, job="11")
    begun(tmp_path / "run-2", restarts=0)
    with RunFolder.take(tmp_path / "run", 0) as taken:
        assert taken.path == tmp_path / "run-2"


def test_others_pass_over_what_is_held(tmp_path: Path, requeued: None) -> None:
    """Another job's; and that of an earlier command in the same start of this job."""
    for name, restarts, job in (("a", 0, "11"), ("b", 1, "12")):
        begun(tmp_path / name, restarts, job)
        with hold(tmp_path / name, 0.0), RunFolder.take(tmp_path / name, 0) as taken:
            assert taken.path.name == f"{name}-2"
            assert "is still running" in taken.passed_over


def test_a_look_of_another_program_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`iwin plan` shares the lock for a moment."""
    monkeypatch.setattr(run_folder, "MOMENT_S", 3600.0)
    first = tmp_path / "run"
    begun(first, restarts=0)
    look = (first / LOCK).open("a")
    fcntl.flock(look, fcntl.LOCK_SH)
    with RunFolder.take(first, 0, meanwhile=look.close) as taken:
        assert taken.path == first


def test_a_cell_has_no_other_folder(tmp_path: Path) -> None:
    begun(tmp_path / "cell", restarts=0)
    with hold(tmp_path / "cell", 0.0), pytest.raises(ConfigError, match="cell, is still held by process"):
        RunFolder.take(tmp_path / "cell", 0, cell=True)
    (tmp_path / "cell" / "result.json").touch()
    with RunFolder.take(tmp_path / "cell", 0, cell=True) as taken:
        assert taken.path == tmp_path / "cell"
    assert not (tmp_path / "cell-2").exists()


def test_a_folder_that_ends_meanwhile_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "MOMENT_S", 3600.0)
    first = tmp_path / "run"
    held = hold(first, 0.0)

    def ends() -> None:
        (first / "result.json").touch()
        held.close()

    with RunFolder.take(first, 0, meanwhile=ends) as taken:
        assert taken.path.name == "run-2"
        assert "has ended" in taken.passed_over


def test_a_folder_that_goes_while_another_takes_it_is_made_anew(tmp_path: Path, monkeypatch) -> None:
    """Between the opening of its lock and the locking of that."""
    first = tmp_path / "run"
    leavers = [RunFolder.take(first, 0)]
    flock = fcntl.flock

    def late(lock: Any, how: int) -> None:
        if leavers:
            leavers.pop().__exit__()
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    lock = hold(first, 0.0)
    assert os.path.samestat(os.fstat(lock.fileno()), (first / LOCK).stat())
    lock.close()


def test_where_there_are_no_locks_this_is_said_and_nothing_left(tmp_path: Path, monkeypatch) -> None:
    def none(lock: Any, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(ConfigError, match=r"has no locks \(Function not implemented\).*-o flock.*paths.runs_dir"):
        RunFolder.take(tmp_path / "run", 0)
    assert not (tmp_path / "run").exists()
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / LOCK).touch()
    with pytest.raises(ConfigError, match="has no locks"):
        wait_for(tmp_path / "cell", lambda: None)

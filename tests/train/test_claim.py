"""A job that is requeued goes on with what it began, or says why it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iwin.errors import ConfigError
from iwin.train import fit
from iwin.train.claim import claim, finished_run
from iwin.train.run_folder import RunFolder
from iwin.train.slurm import MOST_STARTS

SHORT = ("debug=smoke", "data.image_size=32", "data.num_workers=0")


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch):
    """Be in job 12, which was restarted so often."""
    for name in ("IWIN_RUN_FOLDER", "SLURM_ARRAY_JOB_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)

    def so_often(restarts: int) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))

    return so_often


def begun(folder: Path, *restarts: int, job: str = "12", ended: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    starts = [{"slurm": {"name": job, "restarts": number}, "checkpoint": None} for number in restarts]
    (folder / "provenance.json").write_text(json.dumps({"starts": starts}))
    if ended:
        (folder / "result.json").touch()


def test_a_job_that_was_requeued_after_its_end_finds_it(restarted, tmp_path: Path, capsys) -> None:
    first, second = tmp_path / "run", tmp_path / "run-2"
    restarted(1)
    assert finished_run(first) is None
    begun(first, 0, job="11", ended=True)
    assert finished_run(first) is None
    begun(second, 0)
    assert finished_run(first) is None
    begun(second, 0, ended=True)
    assert finished_run(first) == second
    assert claim(first, {}, 0) is None
    assert "The run of this Slurm job has finished, in" in capsys.readouterr().out


def test_the_same_command_a_second_time_in_one_job_is_a_run_of_its_own(restarted, tmp_path: Path) -> None:
    restarted(0)
    begun(tmp_path / "run", 0, ended=True)
    folder = claim(tmp_path / "run", {}, 0)
    assert folder is not None
    with folder:
        assert folder.path.name == "run-2"
    restarted(1)
    begun(tmp_path / "run-2", 0)
    assert finished_run(tmp_path / "run") is None, "the second one has not"


def test_a_cell_that_has_finished_is_not_run_elsewhere(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    begun(tmp_path / "cell", ended=True)
    assert claim(tmp_path / "cell", {}, 0, cell=True) is None
    assert "The run of this cell has finished, in" in capsys.readouterr().out


class Killed(BaseException):
    """As a signal would end the process, as far as it can be told from within."""


@pytest.fixture
def train(program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Begin a run whose recipe is a file that may be edited; it is killed while its model is made."""

    def call(recipe: str, *args: str, kills: bool = True) -> None:
        (tmp_path / "conf" / "experiment").mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{recipe}\n")

        def killed(cfg: Any) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            if kills:
                patch.setattr(fit, "build_model", killed)
            place = (f"hydra.searchpath=[file://{tmp_path}/conf]", f"paths.runs_dir={tmp_path}/runs")
            try:
                program("train", *place, "experiment=mine", *SHORT, *args)
            except Killed:
                # What the next process would find.
                patch.delenv("IWIN_CHECKPOINT", raising=False)

    return call


def folders(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "runs").iterdir())


def test_a_recipe_that_was_edited_ends_a_requeued_job(restarted, train, tmp_path: Path, capsys) -> None:
    restarted(0)
    train("seed: 1")
    (folder,) = folders(tmp_path)
    restarted(1)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        train("seed: 2\nlog_every: 7st")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"{folder} has what this command began before, and now it is another run: seed is 2, there 1; " in said
    assert "Restore conf/" in said
    assert folders(tmp_path) == [folder]
    train("seed: 1\nlog_every: 7st")
    assert folders(tmp_path) == [folder], "what is no part of a run's identity may change"
    train("seed: 2", "data.batch_size=8")
    assert len(folders(tmp_path)) == 2, "another command of the same job is a run of its own"
    restarted(0)
    train("seed: 2")
    assert len(folders(tmp_path)) == 3, "so is one that was not requeued"


def test_a_cell_goes_on_only_as_what_it_began(train, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for recipe in ("seed: 1", "seed: 1\nlog_every: 7st"):
        monkeypatch.setenv("IWIN_SWEEP", f"0 {tmp_path}/runs/cell")
        train(recipe)
    monkeypatch.setenv("IWIN_SWEEP", f"0 {tmp_path}/runs/cell")
    with pytest.raises(SystemExit) as ended:
        train("seed: 2")
    assert ended.value.code == 2
    assert "cell has what this command began before, and now it is another run: seed is 2" in capsys.readouterr().err
    assert [folder.name for folder in folders(tmp_path)] == ["cell"]


def test_a_start_that_is_killed_while_its_model_is_made_counts(restarted, train, tmp_path: Path, capsys) -> None:
    for restarts in range(MOST_STARTS):
        restarted(restarts)
        train("seed: 1")
    (folder,) = folders(tmp_path)
    starts = json.loads((folder / "provenance.json").read_text())["starts"]
    assert [start["slurm"]["restarts"] for start in starts] == list(range(MOST_STARTS))
    restarted(MOST_STARTS)
    with pytest.raises(SystemExit) as ended:
        train("seed: 1")
    assert ended.value.code == 2
    assert f"has started {MOST_STARTS} times from the beginning" in capsys.readouterr().err


def test_a_job_that_never_got_so_far_is_told_before_anything_is_read(
    restarted, train, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(fit, "build_data", lambda cfg: pytest.fail("the data were read"))
    restarted(MOST_STARTS)
    with pytest.raises(SystemExit) as ended:
        train("seed: 1")
    assert ended.value.code == 2
    assert f"was requeued {MOST_STARTS} times and its run has never begun" in capsys.readouterr().err


def test_a_start_whose_model_cannot_be_made_leaves_nothing(train, tmp_path: Path, monkeypatch, capsys) -> None:
    def refuses(cfg: Any) -> None:
        raise ConfigError("these weights do not fit")

    train("seed: 1")
    (folder,) = folders(tmp_path)
    before = (folder / "provenance.json").read_text()
    monkeypatch.setattr(fit, "build_model", refuses)
    for recipe in ("seed: 1", "seed: 2"):
        with pytest.raises(SystemExit) as ended:
            train(recipe, kills=False)
        assert ended.value.code == 2
    assert folders(tmp_path) == [folder]
    assert (folder / "provenance.json").read_text() == before


def test_a_run_folder_tells_the_processes_that_are_started(tmp_path: Path, restarted) -> None:
    """They do not decide again: between the two, the run may have finished."""
    restarted(1)
    begun(tmp_path / "run", 0)
    with RunFolder.take(tmp_path / "run", 0):
        (tmp_path / "run" / "result.json").touch()
        told = claim(tmp_path / "run", {}, 1)
        assert told is not None
        assert (told.path, told.leads) == (tmp_path / "run", False)

"""A sweep runs each of its cells once, whatever happens to it, and says how each stands."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from iwin.errors import ConfigError
from iwin.train import sweep as module
from iwin.train.run_folder import LOCK
from iwin.train.sweep import cells_of

CHECKOUT = Path(__file__).parents[2]
SHORT = ("duration=1ep", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "schedule.warmup=1st")
PATIENCE_S = 300.0

words = st.text(alphabet="abc01/.-=[],' ", max_size=6)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=6, unique=True))
def test_cells_have_names_of_their_own_that_are_one_folder_each(values: list[tuple[str, str]]) -> None:
    cells = cells_of([[f"model.a={one}", f"data.a={two}", "seed=0"] for one, two in values])
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(values)
    assert all("/" not in name and name not in ("", ".", "..") for name in names)
    for (one, two), cell in zip(values, cells, strict=True):
        differing = {key for key, column in zip(("model.a", "data.a"), zip(*values, strict=True), strict=True)
                     if len(set(column)) > 1}  # fmt: skip
        assert cell.overrides == {k: v for k, v in (("model.a", one), ("data.a", two)) if k in differing}


def test_a_name_is_what_differs() -> None:
    cells = cells_of([["model.kernel_sizes=[7,5,3,null]", "seed=1", "x=1"], ["model.kernel_sizes=3", "seed=2", "x=1"]])
    assert [cell.name for cell in cells] == ["kernel_sizes=7,5,3,null,seed=1", "kernel_sizes=3,seed=2"]


class Runs:
    """Stands for the processes of the cells: writes down their overrides, and ends as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.codes: dict[str, int] = {}
        runs = self

        class Fake:
            asked_to_stop = False

            def __init__(self, overrides: list[str], folder: Path) -> None:
                self.folder = folder
                assert overrides[-1] == "hydra.mode=RUN"

            def __enter__(self) -> Fake:
                return self

            def __exit__(self, *error: object) -> None: ...

            def wait(self) -> tuple[int, str]:
                stands = json.loads((self.folder.parent / "sweep.json").read_text())["cells"]
                (cell,) = [cell for cell in stands if cell["state"] == "running"]
                assert cell["folder"] == self.folder.name
                name = cell["name"]
                runs.begun.append(name)
                code = runs.codes.get(name, 0)
                self.folder.mkdir(exist_ok=True)
                if code == 0:
                    (self.folder / "result.json").write_text(json.dumps({"last": {"val/top1": 0.5}}))
                return code, "" if code == 0 else f"it ended with {code}"

        monkeypatch.setattr(module, "CellProcess", Fake)

    def taken(self) -> list[str]:
        taken, self.begun = self.begun, []
        return taken


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


@pytest.fixture
def sweep(program, tmp_path: Path):
    def call(*args: str) -> tuple[int, list[dict[str, Any]]]:
        with pytest.raises(SystemExit) as ended:
            program("train", "-m", f"paths.runs_dir={tmp_path}", *args)
        (folder,) = tmp_path.iterdir()
        return int(ended.value.code or 0), json.loads((folder / "sweep.json").read_text())["cells"]

    return call


def states(cells: list[dict[str, Any]]) -> list[str]:
    return [cell["state"] for cell in cells]


def test_finished_cells_are_not_repeated_and_failed_ones_only_where_asked(sweep, runs: Runs, tmp_path: Path) -> None:
    runs.codes["position=relative"] = 1
    code, cells = sweep("sweep=table7_position")
    assert code == 1
    assert runs.taken() == ["position=absolute", "position=relative", "position=none"]
    assert states(cells) == ["finished", "failed", "finished"]
    assert cells[1]["reason"] == "it ended with 1"
    assert cells[1]["overrides"] == {"position": "relative"}
    runs.codes.clear()
    code, cells = sweep("sweep=table7_position")
    assert (code, runs.taken(), states(cells)) == (1, [], ["finished", "failed", "finished"])
    code, cells = sweep("sweep=table7_position", "retry_failed=true")
    assert (code, runs.taken(), states(cells)) == (0, ["position=relative"], ["finished"] * 3)
    assert len({cell["folder"] for cell in cells}) == 3
    (folder,) = tmp_path.iterdir()
    assert not (folder / "multirun.yaml").exists()


@pytest.mark.parametrize("code", [75, 69, 71, -9])
def test_a_cell_that_was_stopped_goes_on(sweep, runs: Runs, code: int) -> None:
    runs.codes["seed=1"] = code
    exit_code, cells = sweep("sweep=seeds")
    if code == 75:  # asked to stop: so is the sweep
        assert (exit_code, runs.taken()) == (75, ["seed=0", "seed=1"])
        assert states(cells) == ["finished", "stopped", "waiting"]
    else:
        assert runs.taken() == ["seed=0", "seed=1", "seed=2"]
        assert exit_code == (code if code > 0 else 75)
        assert states(cells) == ["finished", "stopped", "finished"]
    runs.codes.clear()
    exit_code, cells = sweep("sweep=seeds")
    assert exit_code == 0
    assert runs.taken() == ["seed=1", *(["seed=2"] if code == 75 else [])]
    assert states(cells) == ["finished"] * 3


def test_a_cell_whose_configuration_cannot_be_used_does_not_stop_the_others(sweep, runs: Runs) -> None:
    code, cells = sweep("model=timm,iwin_micro")  # timm's model_name is needed
    assert code == 2
    assert runs.taken() == ["model=iwin_micro"]
    assert states(cells) == ["failed", "finished"]
    assert "model_name" in cells[0]["reason"]


def test_other_overrides_are_another_sweep(program, runs: Runs, tmp_path: Path) -> None:
    def swept(*args: str) -> tuple[list[str], int]:
        with pytest.raises(SystemExit):
            program("train", "-m", f"paths.runs_dir={tmp_path}", *args)
        return runs.taken(), len(list(tmp_path.iterdir()))

    assert swept("seed=0,1") == (["seed=0", "seed=1"], 1)
    for same in ("log_every=1st", "data.num_workers=3", "callbacks.heartbeat.training_s=9", "logger=[]"):
        assert swept("seed=0,1", same) == ([], 1)
    assert swept("seed=0,1", "optimizer.lr=1e-3") == (["seed=0", "seed=1"], 2)
    # What is swept tells sweeps apart, whatever it is.
    assert swept("data.num_workers=0,1") == (["num_workers=0", "num_workers=1"], 3)
    assert swept("data.num_workers=0,2") == (["num_workers=0", "num_workers=2"], 4)


def test_the_folder_of_a_cell_can_be_written_in_an_override(sweep, runs: Runs, tmp_path: Path) -> None:
    """eval.py checkpoint=FOLDER and init.path=FOLDER, unquoted."""
    _, cells = sweep("seed=0,1", "model.kernel_sizes=[3,3,3,null],[5,3,3,null]")
    (folder,) = tmp_path.iterdir()
    for cell in cells:
        path = str(folder / cell["folder"])
        assert OverridesParser.create().parse_override(f"checkpoint={path}").value() == path
    assert len({cell["folder"] for cell in cells}) == 4


def test_secrets_are_in_no_name_of_a_cell() -> None:
    cells = cells_of([["data.root=https://me:hush1@host/a"], ["data.root=https://me:hush1@host/b"]])
    assert not any("hush1" in cell.name for cell in cells)
    assert [cell.name for cell in cells_of([["a.api_key=hush1"], ["a.api_key=hush2"]])] == ["api_key=", "api_key=-2"]


def test_a_cell_that_a_killed_sweep_left_running_is_waited_for(
    sweep, runs: Runs, tmp_path: Path, capsys, monkeypatch
) -> None:
    """Its process holds the folder until it has saved: beside it, the cell would begin once more in another folder."""
    runs.codes["seed=1"] = 75
    _, cells = sweep("sweep=seeds")
    runs.taken()
    (folder,) = tmp_path.iterdir()
    left = (folder / cells[1]["folder"] / LOCK).open("w")
    fcntl.flock(left, fcntl.LOCK_EX)
    flock, waited = fcntl.flock, []

    def ends_meanwhile(lock: Any, how: int) -> None:
        if how == fcntl.LOCK_EX:  # without LOCK_NB: this waits
            waited.append(lock.name)
            (folder / cells[1]["folder"] / "result.json").write_text(json.dumps({"last": {"val/top1": 0.5}}))
            left.close()
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", ends_meanwhile)
    code, cells = sweep("sweep=seeds")
    assert "Waiting for the process that still runs in" in capsys.readouterr().out
    assert waited == [left.name]
    assert (code, runs.taken(), states(cells)) == (0, ["seed=2"], ["finished"] * 3)


def test_a_cell_whose_results_were_removed_has_not_finished(sweep, runs: Runs, tmp_path: Path) -> None:
    _, cells = sweep("sweep=seeds")
    runs.taken()
    (folder,) = tmp_path.iterdir()
    for cell in (cells[0], cells[2]):
        (folder / cell["folder"] / "result.json").unlink()
    runs.codes["seed=0"] = 75
    code, cells = sweep("sweep=seeds")
    assert (code, runs.taken(), states(cells)) == (75, ["seed=0"], ["stopped", "finished", "stopped"])


def test_two_processes_do_not_run_one_sweep(sweep, runs: Runs, tmp_path: Path, monkeypatch, capsys) -> None:
    sweep("sweep=seeds")
    held = module.Sweep._take

    def take_twice(self: module.Sweep) -> Any:
        kept.append(held(self))
        return held(self)

    kept: list[Any] = []
    monkeypatch.setattr(module.Sweep, "_take", take_twice)
    code, _ = sweep("sweep=seeds")
    assert code == 2
    assert "another process is running this sweep" in capsys.readouterr().err


def test_a_damaged_list_of_cells_is_named(sweep, runs: Runs, tmp_path: Path, capsys) -> None:
    sweep("sweep=seeds")
    (folder,) = tmp_path.iterdir()
    (folder / "sweep.json").write_text('{"cells": [{"na')
    with pytest.raises(json.JSONDecodeError):
        sweep("sweep=seeds")
    assert "sweep.json is damaged" in capsys.readouterr().err


def started(tmp_path: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "train.py", "-m", f"paths.runs_dir={tmp_path / 'runs'}", *SHORT, *args],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "stderr.txt").open("a"),
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_killed_in_the_middle_goes_on(tmp_path: Path, signum: signal.Signals) -> None:
    args = ("optimizer.lr=1e-3,2e-3,0,3e-3", "data.num_workers=0")
    first = started(tmp_path, *args)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("cell 2 of 4"):
            break
    for line in first.stdout:
        if "val top-1" in line:
            break
    os.kill(first.pid, signum)
    first.communicate(timeout=PATIENCE_S)
    assert first.returncode == (-9 if signum == signal.SIGKILL else 75)
    (folder,) = (tmp_path / "runs").iterdir()
    done = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    assert "lr-0.001" in {name.rpartition("-")[0] for name in done}

    again = started(tmp_path, *args)
    printed, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 2, (tmp_path / "stderr.txt").read_text()
    assert "cell 1 of 4  lr=0.001: has finished" in printed
    cells = json.loads((folder / "sweep.json").read_text())["cells"]
    assert states(cells) == ["finished", "finished", "failed", "finished"]
    assert cells[2]["reason"] == "optimizer.lr must be above 0, got 0"
    for name, at in done.items():
        assert (folder / name / "result.json").stat().st_mtime_ns == at
    assert len(list(folder.glob("*/result.json"))) == 3
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        c["folder"] for c in cells if c["exit_code"] == 0
    }


def test_only_grids_are_swept() -> None:
    other = OmegaConf.create({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"})
    with pytest.raises(ConfigError, match="BasicLauncher makes none"):
        module.planned_cells(other)

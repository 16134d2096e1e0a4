"""A sweep as an array of a real Slurm, through Hydra's launcher."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from iwin.tools.report.cells import read_sweep
from slurm.cluster import CHECKOUT, PATIENCE_S, Cluster
from slurm.conftest import RUN

pytestmark = pytest.mark.slow


def submit(cluster: Cluster, runs: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *args, *RUN, f"paths.runs_dir={runs}", "hydra/launcher=slurm"],
        cwd=CHECKOUT,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints/update-00000150.ckpt", weights_only=True)["state_dict"]


def test_an_array_of_three_of_which_one_is_told_to_stop(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    sweep = ("-m", "hydra.launcher.array_parallelism=2", "seed=0,1,2")
    submitted = submit(cluster, tmp_path, *sweep)
    assert submitted.returncode == 0, submitted.stderr
    job = re.findall(r"Submitted Slurm job (\d+), 3 cells, 2 at a time at most", submitted.stdout)[0]
    (folder,) = tmp_path.iterdir()
    cells = {cell["name"]: cell for cell in json.loads((folder / "sweep.json").read_text())["cells"]}
    assert [cell["job"] for cell in cells.values()] == [f"{job}_{number}" for number in range(3)]
    cluster.until(lambda: cluster.job(f"{job}_0")["JobState"] == "RUNNING")
    assert "PENDING" in cluster.job(f"{job}_2")["JobState"]
    meanwhile = submit(cluster, tmp_path, *sweep)
    assert meanwhile.returncode == 0, meanwhile.stderr
    assert "Nothing is left to submit." in meanwhile.stdout
    assert re.findall(r"is Slurm job (\S+)\n", meanwhile.stdout) == [f"{job}_{number}" for number in range(3)]
    stopped = folder / "slurm" / f"{job}_0_0_log.out"
    cluster.until(lambda: stopped.exists() and re.search(r"update \d+/", stopped.read_text()) is not None)
    assert "PENDING" in cluster.job(f"{job}_2")["JobState"]
    assert {cell.state for cell in read_sweep(folder).cells} == {"running", "waiting"}
    cluster.signal(f"{job}_0", signal.SIGUSR2)
    cluster.released(f"{job}_0", 1)
    ended = [cluster.ended(f"{job}_{number}") for number in range(3)]
    assert [(one["JobState"], one["Restarts"]) for one in ended] == [("COMPLETED", str(n)) for n in (1, 0, 0)]
    first = folder / cells["seed=0"]["folder"]
    assert all(torch.equal(weights(first)[name], value) for name, value in weights(whole).items())
    assert [cell.state for cell in read_sweep(folder).cells] == ["finished"] * 3
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    again = submit(cluster, tmp_path, *sweep)
    assert "Nothing is left to submit." in again.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")} == before


def test_a_single_job_has_the_folder_of_the_command(cluster: Cluster, tmp_path: Path) -> None:
    submitted = submit(cluster, tmp_path)
    assert submitted.returncode == 0, submitted.stderr
    job = re.findall(r"Submitted Slurm job (\d+)\n", submitted.stdout)[0]
    assert cluster.ended(job)["JobState"] == "COMPLETED"
    (folder,) = tmp_path.iterdir()
    assert (folder / "result.json").is_file()
    assert not (folder / "multirun.yaml").exists()
    (start,) = json.loads((folder / "provenance.json").read_text())["starts"]
    submitted_code = start["slurm"].pop("submitted_code")
    assert start["slurm"] == {"name": job, "restarts": 0}
    notes = [note for note in start["recovery"] if "The code has changed since this job was submitted" in note]
    assert bool(notes) == (submitted_code != start["code"])  # somebody may be editing the checkout


def test_a_requeued_job_has_the_configuration_that_was_submitted(cluster: Cluster, tmp_path: Path) -> None:
    runs, mine = tmp_path / "runs", tmp_path / "more" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\nseed: 5\n")
    command = (f"--config-dir={tmp_path}/more", "experiment=mine")
    submitted = submit(cluster, runs, *command)
    assert submitted.returncode == 0, submitted.stderr
    job = re.findall(r"Submitted Slurm job (\d+)\n", submitted.stdout)[0]
    mine.write_text("# @package _global_\nseed: [\n")  # being edited
    (folder,) = runs.iterdir()
    log = folder / "slurm" / f"{job}_0_log.out"
    cluster.until(lambda: log.exists() and re.search(r"update \d+/", log.read_text()) is not None)
    cluster.signal(job, signal.SIGUSR2)
    mine.write_text("# @package _global_\nseed: 5\nlog_every: 7st\n")  # of the run nothing that decides
    cluster.released(job, 1)
    again = submit(cluster, runs, *command)
    assert f"is Slurm job {job}.\nNothing is left to submit." in again.stdout, again.stderr
    mine.write_text("# @package _global_\nseed: 6\n")
    assert cluster.ended(job)["JobState"] == "COMPLETED"
    assert list(runs.iterdir()) == [folder]
    assert (folder / "result.json").is_file()
    assert OmegaConf.load(folder / "config.yaml").seed == 5
    assert len(json.loads((folder / "provenance.json").read_text())["starts"]) == 2


def test_what_a_launcher_does_not_have_is_an_error(cluster: Cluster, tmp_path: Path) -> None:
    for wrong, said in (
        ("+hydra.launcher.nodez=2", "there is no key 'nodez'"),
        ("hydra.launcher.partition=nowhere", "invalid partition specified: nowhere"),
    ):
        refused = submit(cluster, tmp_path, wrong)
        assert refused.returncode == 2
        assert "error: hydra.launcher: " in refused.stderr
        assert said in refused.stderr
        assert "Traceback" not in refused.stderr

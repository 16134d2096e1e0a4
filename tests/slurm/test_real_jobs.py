"""Runs as jobs of a real Slurm: whatever happens to them they come back once, and end with the same bits."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
import torch

from slurm.cluster import Cluster
from slurm.conftest import RUN, undisturbed

pytestmark = pytest.mark.slow


class BatchJob:
    """scripts/train.sbatch, submitted."""

    def __init__(self, cluster: Cluster, folder: Path, *args: str, partition: str = "graced", tasks: int = 1) -> None:
        self.cluster, self.runs, self.log = cluster, folder / "runs", folder / "log"
        slots = (f"--ntasks-per-node={tasks}", "--gpus-per-node=0", "--cpus-per-task=1")
        place = (f"--partition={partition}", f"--output={self.log}")
        self.name = cluster.sbatch(*slots, *place, "scripts/train.sbatch", *RUN, f"paths.runs_dir={self.runs}", *args)
        self._seen = 0

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def until_it_trains(self) -> None:
        """Until an update of its present start is logged."""
        self.cluster.until(lambda: re.search(r"update \d+/", self.said()[self._seen :]) is not None)

    def comes_back(self, restarts: int) -> None:
        """It is requeued, for the so many-eth time, and trains again."""
        self.cluster.released(self.name, restarts)
        self._seen = len(self.said())
        self.until_it_trains()
        assert self.cluster.job(self.name)["Restarts"] == str(restarts)

    def finishes(self, restarts: int) -> Path:
        """The folder of its run, once it is done; it has then been requeued so often."""
        ended = self.cluster.ended(self.name)
        assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", str(restarts)), self.said()
        (folder,) = self.runs.iterdir()
        return folder


def same(folder: Path, whole: Path) -> None:
    """The weights have the same bits, and every update was logged once, with the same numbers."""
    ours, theirs = (torch.load(one / "checkpoints/update-00000150.ckpt", weights_only=True) for one in (folder, whole))
    assert all(torch.equal(ours["state_dict"][name], value) for name, value in theirs["state_dict"].items())
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def checkpoints_of_starts(folder: Path) -> list[str | None]:
    starts = json.loads((folder / "provenance.json").read_text())["starts"]
    assert [start["slurm"]["restarts"] for start in starts] == list(range(len(starts)))
    assert len({start["slurm"]["name"] for start in starts}) == 1
    return [start["checkpoint"] for start in starts]


def test_three_signals_in_a_row_lose_nothing(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    """USR1 is scripts/train.sbatch's before the end of its time, USR2 the launcher's, TERM whoever's."""
    job = BatchJob(cluster, tmp_path)
    for restarts, signum in enumerate((signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM), start=1):
        job.until_it_trains()
        cluster.signal(job.name, signum)
        job.comes_back(restarts)
    folder = job.finishes(3)
    stopped = re.findall(r"Stopped by (\w+) after update (\d+)", job.said())
    assert [name for name, _ in stopped] == ["SIGUSR1", "SIGUSR2", "SIGTERM"]
    assert checkpoints_of_starts(folder) == [None, *(f"update-{int(update):08d}.ckpt" for _, update in stopped)]
    same(folder, whole)


def test_a_job_that_gives_way_comes_back_once(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    """With a time to leave in, in which Slurm requeues nobody who leaves; suddenly; and by another's requeue."""
    for partition in ("graced", "sudden"):
        (tmp_path / partition).mkdir()
        job = BatchJob(cluster, tmp_path / partition, partition=partition)
        job.until_it_trains()
        urgent = cluster.sbatch("--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=true")
        assert cluster.ended(urgent)["JobState"] == "COMPLETED"
        job.comes_back(1)
        if partition == "sudden":
            cluster.requeue(job.name)
            job.comes_back(2)
        folder = job.finishes(1 if partition == "graced" else 2)
        stopped = re.findall(r"Stopped by SIGTERM after update (\d+)", job.said())
        assert checkpoints_of_starts(folder) == [None, *(f"update-{int(update):08d}.ckpt" for update in stopped)]
        same(folder, whole)


def test_lost_processes_and_nodes_cost_what_was_not_saved(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    job = BatchJob(cluster, tmp_path)
    job.until_it_trains()
    cluster.until(lambda: "update 33/150" in job.said())
    cluster.kill(cluster.processes(of_step=True, job=job.name))
    job.comes_back(1)
    cluster.until(lambda: "update 63/150" in job.said())
    cluster.lose_node(job.name)
    job.comes_back(2)
    folder = job.finishes(2)
    assert checkpoints_of_starts(folder) == [None, "update-00000030.ckpt", "update-00000060.ckpt"]
    same(folder, whole)


def test_two_tasks_compute_what_two_local_ranks_do(cluster: Cluster, tmp_path: Path) -> None:
    job = BatchJob(cluster, tmp_path, tasks=2)
    job.until_it_trains()
    assert "2 ranks by srun, 1 node, 1 device each" in job.said()
    cluster.signal(job.name, signal.SIGUSR1)
    job.comes_back(1)
    local = undisturbed(cluster, tmp_path / "local", "trainer.devices=2")
    same(job.finishes(1), local)


def test_two_tasks_in_a_job_that_somebody_is_sitting_in_are_one_run(cluster: Cluster, tmp_path: Path) -> None:
    """salloc calls its jobs interactive. The same command again is a run of its own, and no requeue of the first."""
    short = ("trainer.limit_train_batches=2", "duration=1ep", f"paths.runs_dir={tmp_path}/runs")
    train = shlex.join(("srun", "-n2", sys.executable, "train.py", *RUN, *short))
    said = cluster.salloc("-n2", "sh", "-c", f"echo $SLURM_JOB_NAME && {train} && {train}")
    assert said.startswith("interactive\n")
    assert said.count("2 ranks by srun, 1 node, 1 device each") == 2
    assert "This is a new run, as the one in" in said
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 2


def test_a_recipe_that_was_edited_ends_a_requeued_job(cluster: Cluster, tmp_path: Path) -> None:
    recipe = tmp_path / "conf" / "experiment" / "mine.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("# @package _global_\nseed: 1\n")
    job = BatchJob(cluster, tmp_path, f"hydra.searchpath=[file://{tmp_path}/conf]", "experiment=mine")
    job.until_it_trains()
    recipe.write_text("# @package _global_\nseed: 2\n")
    cluster.signal(job.name, signal.SIGUSR1)
    cluster.released(job.name, 1)
    ended = cluster.ended(job.name)
    assert (ended["JobState"], ended["Restarts"], ended["ExitCode"]) == ("FAILED", "1", "2:0")
    assert "has what this command began before, and now it is another run: seed is 2, there 1" in job.said()
    assert len(list(job.runs.iterdir())) == 1


def test_a_cancelled_job_is_not_requeued_and_one_that_must_not_be_says_so(cluster: Cluster, tmp_path: Path) -> None:
    for way in ("cancelled", "forbidden"):
        (tmp_path / way).mkdir()
        job = BatchJob(cluster, tmp_path / way)
        job.until_it_trains()
        if way == "cancelled":
            cluster.cancel(job.name)
        else:
            cluster.forbid_requeue(job.name)
            cluster.signal(job.name, signal.SIGUSR1)
        ended = cluster.ended(job.name)
        assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED" if way == "cancelled" else "FAILED", "0")
        if way == "forbidden":
            assert "is not requeued: it must not be (sbatch --no-requeue)" in job.said()
        assert not list(job.runs.glob("*/result.json"))

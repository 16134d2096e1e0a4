"""The Slurm that these tests share, and the run that nothing disturbed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.cluster import CHECKOUT, PATIENCE_S, Cluster, missing

RUN = (
    "duration=5ep",
    "trainer.limit_train_batches=30",
    "trainer.limit_val_batches=1",
    "trainer.devices=auto",
    "trainer.accelerator=cpu",
    "log_every=1st",
    "schedule.warmup=1st",
    "data.batch_size=16",
    "data.num_workers=0",
    "+callbacks.progress.every_s=0",
    "callbacks.preemption.every=2st",
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    why_not = missing()
    if why_not:
        pytest.skip(why_not)
    with Cluster() as cluster:
        yield cluster


def undisturbed(cluster: Cluster, runs: Path, *args: str) -> Path:
    """The folder of a run of a process here, and others that it starts."""
    command = [sys.executable, "train.py", *RUN, f"paths.runs_dir={runs}", *args]
    subprocess.run(command, cwd=CHECKOUT, env=cluster.environment, check=True, timeout=PATIENCE_S, capture_output=True)
    (folder,) = runs.iterdir()
    return folder


@pytest.fixture(scope="session")
def whole(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return undisturbed(cluster, tmp_path_factory.mktemp("whole"))

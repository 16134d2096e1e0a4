"""Two nodes with two ranks each compute what four ranks on one host do, and one process alone writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hosts import CHECKOUT, Host

SHORT = (
    "duration=2ep",
    "trainer.limit_train_batches=4",
    "trainer.accelerator=cpu",
    "log_every=1st",
    "schedule.warmup=1st",
    "data.batch_size=8",
    "data.num_workers=0",
)
PORT = "29500"
PATIENCE_S = 300.0

pytestmark = pytest.mark.slow


def torchrun(rank: int, first: Host) -> list[str]:
    """The start of the command on one of two nodes."""
    where = ["--master-addr", first.address, "--master-port", PORT]
    return ["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "2", *where]


def the_run(runs: Path) -> Path:
    """The folder of the one run below `runs`."""
    (folder,) = runs.iterdir()
    return folder


def saved(folder: Path) -> dict[str, object]:
    """The last checkpoint's weights and optimizer, flat."""
    checkpoint = torch.load(max((folder / "checkpoints").glob("update-*.ckpt")), weights_only=True)
    (optimizer,) = checkpoint["optimizer_states"]
    states = {f"{number}.{key}": value for number, state in optimizer["state"].items() for key, value in state.items()}
    return {**checkpoint["state_dict"], **states}


def test_two_nodes_have_the_bits_of_one_host_and_the_second_writes_nothing(
    tmp_path: Path, hosts: Sequence[Host]
) -> None:
    apart, together = tmp_path / "apart", tmp_path / "together"
    apart.mkdir()
    logs = [tmp_path / f"node-{rank}.log" for rank in range(2)]
    nodes = [
        host.start(
            sys.executable,
            *torchrun(rank, hosts[0]),
            *("train.py", f"paths.runs_dir={apart}", "trainer.devices=2", "trainer.num_nodes=2", *SHORT),
            reads_only=apart if rank > 0 else None,
            log=log,
        )
        for rank, (host, log) in enumerate(zip(hosts, logs, strict=True))
    ]
    codes = [node.wait(PATIENCE_S) for node in nodes]
    assert codes == [0, 0], "\n".join(log.read_text() for log in logs)

    command = [sys.executable, "train.py", f"paths.runs_dir={together}", "trainer.devices=4", *SHORT]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    one = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert one.returncode == 0, one.stderr

    ours, theirs = saved(the_run(apart)), saved(the_run(together))
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    metrics = [(the_run(runs) / "metrics.csv").read_text() for runs in (apart, together)]
    assert metrics[0] == metrics[1]
    assert metrics[0].count("\n") == 1 + 8
    assert "4 ranks" in logs[0].read_text()
    assert "results" not in logs[1].read_text()

"""Ranks and devices from the environment; what contradicts it is said with the fix."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from iwin.errors import ConfigError
from iwin.train import processes
from iwin.train.processes import SRUN, TORCHRUN, Processes, SrunEnvironment, find_processes, place_processes

CHECKOUT = Path(__file__).parents[2]
AUTO = {"devices": "auto", "num_nodes": "auto", "accelerator": "cpu"}


def by_torchrun(rank: int, nodes: int, on_node: int) -> dict[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": rank % on_node, "GROUP_RANK": rank // on_node}
    counts = {"WORLD_SIZE": nodes * on_node, "LOCAL_WORLD_SIZE": on_node, "GROUP_WORLD_SIZE": nodes}
    return {"TORCHELASTIC_RUN_ID": "none", **{name: str(value) for name, value in (place | counts).items()}}


def by_srun(rank: int, nodes: int, on_node: int) -> dict[str, str]:
    place = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % on_node, "SLURM_NODEID": rank // on_node}
    counts = {"SLURM_STEP_NUM_TASKS": nodes * on_node, "SLURM_STEP_NUM_NODES": nodes, "SLURM_STEP_ID": 0}
    tasks = str(on_node) if nodes == 1 else f"{on_node}(x{nodes})"
    return {"SLURM_STEP_TASKS_PER_NODE": tasks, **{name: str(value) for name, value in (place | counts).items()}}


@pytest.mark.parametrize(("by", "environ"), [(TORCHRUN, by_torchrun), (SRUN, by_srun)])
@pytest.mark.parametrize(("nodes", "on_node"), [(1, 1), (1, 8), (2, 4), (3, 1)])
def test_every_rank_finds_itself_and_auto_takes_what_there_is(by: str, environ, nodes: int, on_node: int) -> None:
    for rank in range(nodes * on_node):
        found = find_processes(environ(rank, nodes, on_node))
        assert found == Processes(by, nodes * on_node, nodes, rank, rank % on_node, rank // on_node)
        assert place_processes(AUTO, found) == {"devices": on_node, "num_nodes": nodes}
        there = found.environment()
        assert (there.world_size() if by == SRUN else nodes * on_node) == nodes * on_node


def test_torchrun_inside_of_srun_is_torchrun() -> None:
    assert find_processes(by_srun(1, 2, 1) | by_torchrun(5, 2, 4)).by == TORCHRUN


@pytest.mark.parametrize(
    "environ", [{}, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, by_srun(0, 1, 1) | {"SLURM_JOB_NAME": "bash"}]
)
def test_a_process_that_nobody_started_as_a_rank_is_alone(environ: dict[str, str]) -> None:
    assert find_processes(environ) == Processes(None)


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_tasks_in_a_job_that_somebody_is_sitting_in_are_ranks(name: str) -> None:
    """salloc, then srun: its job has that name, which goes on to every step."""
    assert find_processes(by_srun(1, 1, 2) | {"SLURM_JOB_NAME": name}) == Processes(SRUN, 2, 1, 1, 1)


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_shell_of_srun_is_told_from_what_is_started_in_it(monkeypatch: pytest.MonkeyPatch, tasks: int) -> None:
    """srun --pty: its variable goes on to steps and jobs that are started there, its terminal does not."""
    shell = by_srun(0, 1, tasks) | {"SLURM_JOB_NAME": "dev", "SLURM_PTY_PORT": "40001"}
    monkeypatch.setattr(processes, "in_terminal", lambda: True)
    assert find_processes(shell) == Processes(None)
    assert find_processes(by_srun(0, 1, tasks)).by == SRUN
    monkeypatch.setattr(processes, "in_terminal", lambda: False)
    assert find_processes(shell).by == SRUN


def test_steps_of_jobs_that_run_together_have_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = set()
    for job in range(9_950, 10_050):
        for step in range(20):
            monkeypatch.setenv("SLURM_JOB_ID", str(job))
            monkeypatch.setenv("SLURM_STEP_ID", str(step))
            ports.add(SrunEnvironment(Processes(SRUN)).main_port)
    assert len(ports) == 100 * 20
    assert min(ports) >= processes.FIRST_PORT
    assert max(ports) < processes.FIRST_PORT + processes.PORTS


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (by_torchrun(0, 2, 2) | {"WORLD_SIZE": "3"}, "the same --nproc-per-node"),
        (by_srun(0, 2, 2) | {"SLURM_STEP_TASKS_PER_NODE": "2,1"}, "--ntasks-per-node"),
        ({"WORLD_SIZE": "4"}, "unset WORLD_SIZE"),
    ],
)
def test_an_environment_that_contradicts_itself_is_an_error(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find_processes(environ)


@pytest.mark.parametrize(
    ("by", "keys", "said"),
    [
        (TORCHRUN, {"devices": 8}, "--nproc-per-node=8"),
        (TORCHRUN, {"devices": 4, "num_nodes": 3}, "num_nodes=3, and torchrun runs on 2"),
        (SRUN, {"devices": "2"}, "--ntasks-per-node=2"),
        (SRUN, {"devices": [0, 1, 2]}, "--ntasks-per-node=3"),
        (None, {"num_nodes": 2}, "with srun"),
        (None, {"devices": 0}, "at least 1"),
        (None, {"devices": 10_000, "accelerator": "auto"}, "trainer.devices=|there are"),
    ],
)
def test_a_configuration_that_contradicts_the_environment_is_an_error(by: str | None, keys, said: str) -> None:
    processes = Processes(None) if by is None else Processes(by, 8, 2)
    with pytest.raises(ConfigError, match=said):
        place_processes({**AUTO, **keys}, processes)


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iwin.train.processes.CUDAAccelerator.is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ConfigError, match="8 CUDA devices are asked for on this machine, and there are 4"):
        place_processes({**AUTO, "devices": 8, "accelerator": "auto"}, Processes(None))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="--gpus-per-node=4"):
        place_processes({**AUTO, "accelerator": "cuda"}, Processes(SRUN, 8, 2))


def test_a_job_of_several_tasks_without_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    with pytest.raises(ConfigError, match="put srun before python"):
        place_processes(AUTO, Processes(None))
    assert place_processes({**AUTO, "devices": 1}, Processes(None))["devices"] == 1


def test_fewer_tasks_than_gpus_are_an_error_unless_it_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iwin.train.processes.CUDAAccelerator.is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    four, eight = Processes(SRUN, 8, 2), Processes(SRUN, 16, 2)
    with pytest.raises(ConfigError, match=r"4 tasks on a node .* 8 GPUs.*--ntasks-per-node=8.*trainer.devices=4"):
        place_processes({**AUTO, "accelerator": "auto"}, four)
    assert place_processes({**AUTO, "accelerator": "auto", "devices": 4}, four)["devices"] == 4
    assert place_processes({**AUTO, "accelerator": "auto"}, eight)["devices"] == 8
    assert place_processes(AUTO, four)["devices"] == 4, "on the CPU the GPUs are nobody's"
    assert place_processes({**AUTO, "accelerator": "auto"}, Processes(TORCHRUN, 8, 2))["devices"] == 4


@pytest.mark.slow
def test_torchrun_computes_what_two_local_ranks_do(tmp_path: Path) -> None:
    short = (
        *("duration=2ep", "trainer.limit_train_batches=8", "trainer.limit_val_batches=1", "log_every=1st"),
        *("schedule.warmup=1st", "data.batch_size=16", "data.num_workers=0", "trainer.accelerator=cpu"),
    )
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    folders = []
    for name, start, devices in (("torchrun", torchrun, "auto"), ("local", (sys.executable,), "2")):
        done = subprocess.run(
            [*start, "train.py", *short, f"trainer.devices={devices}", f"paths.runs_dir={tmp_path / name}"],
            cwd=CHECKOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300.0,
        )
        assert done.returncode == 0, done.stderr
        by = "torchrun" if name == "torchrun" else "this process"
        assert done.stdout.startswith(f"2 ranks by {by}, 1 node, 1 device each\n")
        folders += (tmp_path / name).iterdir()
    a, b = (
        torch.load(folder / "checkpoints/update-00000016.ckpt", weights_only=True)["state_dict"] for folder in folders
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (folders[0] / "metrics.csv").read_text() == (folders[1] / "metrics.csv").read_text()

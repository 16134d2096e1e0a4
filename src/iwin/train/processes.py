"""The processes of a run as the environment tells of them: who has started them, how many, and which one this is.

Four ways lead to the same run: one process; one that starts the others of its machine; torchrun; srun.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.accelerators import CUDAAccelerator

from iwin.errors import ConfigError, whole
from iwin.train.terminal import in_terminal

TORCHRUN, SRUN = "torchrun", "srun"
# Lightning and Slurm itself know by these names of jobs that a person is sitting in: their shell is a step as well.
INTERACTIVE = ("bash", "interactive")
FIRST_SPECIAL_STEP = 0xFFFFFFF0  # from here on steps are Slurm's own, as the shell of salloc
ALL_HERE = ("auto", -1, "-1")  # of trainer.devices
FIRST_PORT, PORTS = 15000, 10000
# Jobs that run together have numbers that are near to each other, and so have their steps: multiples of the golden
# section of PORTS are far from one another.
STEP_APART = 6181


@dataclass(frozen=True)
class Processes:
    """by: TORCHRUN or SRUN; None where this process is alone, or starts others itself, or was started by one that does.

    ranks, nodes: of the run, where `by` says so. rank, local_rank, node: of this process.
    """

    by: str | None
    ranks: int = 1
    nodes: int = 1
    rank: int = 0
    local_rank: int = 0
    node: int = 0

    @property
    def on_node(self) -> int:
        """Processes on each node."""
        return self.ranks // self.nodes

    def environment(self) -> ClusterEnvironment:
        """The same for Lightning, which else looks for itself, and takes any process in a Slurm job for one of srun."""
        if self.by == TORCHRUN:
            return TorchElasticEnvironment()
        return SrunEnvironment(self) if self.by == SRUN else LightningEnvironment()


def find_processes(environ: Mapping[str, str] = os.environ) -> Processes:
    """What the environment says.

    ConfigError where nodes have different numbers of processes, where processes were started one by one, and for one
    process in a Slurm job of several tasks.
    """
    if "TORCHELASTIC_RUN_ID" in environ:
        ranks, on_node, nodes = (int(environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
        if ranks != on_node * nodes:
            raise ConfigError(
                f"torchrun has started WORLD_SIZE={ranks} processes on {nodes} nodes, of which this one has {on_node}: "
                "give every node the same --nproc-per-node"
            )
        place = (int(environ[name]) for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"))
        return Processes(TORCHRUN, ranks, nodes, *place)
    if _in_step(environ):
        ranks, nodes = int(environ["SLURM_STEP_NUM_TASKS"]), int(environ["SLURM_STEP_NUM_NODES"])
        tasks = environ["SLURM_STEP_TASKS_PER_NODE"]
        if not re.fullmatch(r"\d+(\(x\d+\))?", tasks):
            raise ConfigError(
                f"srun has started {tasks} tasks on its {nodes} nodes: give every node the same number, with "
                "--ntasks-per-node"
            )
        return Processes(
            SRUN, ranks, nodes, *(int(environ[name]) for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"))
        )
    if "LOCAL_RANK" in environ:  # one that Lightning's launcher started
        rank = int(environ["LOCAL_RANK"])
        return Processes(None, rank=rank, local_rank=rank)
    if int(environ.get("WORLD_SIZE") or 1) > 1:
        raise ConfigError(
            f"WORLD_SIZE={environ['WORLD_SIZE']} is set, and neither torchrun nor srun has started this process: start "
            "it with one of them, or unset WORLD_SIZE"
        )
    return Processes(None)


def place_processes(trainer: Mapping[str, Any], processes: Processes) -> dict[str, Any]:
    """`devices` and `num_nodes` for Lightning's trainer: what the configuration asks for, where that is what there is.

    trainer: the configuration's `trainer`, whose devices are `auto`, a number, or a list of them; num_nodes `auto` or
    a number. ConfigError for what contradicts the environment or the devices here, and where GPUs of the job would be
    left without a process that nobody said shall be, with what to do.
    """
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    count = None if devices in ALL_HERE else asked_devices(devices)
    if nodes != "auto":
        whole("trainer.num_nodes", nodes, 1)
    if processes.by is None:
        _check_alone(nodes, count)
        _check_there(trainer["accelerator"], count, devices, processes)
        return {"devices": devices, "num_nodes": 1}
    flag = {TORCHRUN: "--nproc-per-node", SRUN: "--ntasks-per-node"}[processes.by]
    if count not in (None, processes.on_node):
        raise ConfigError(
            f"trainer.devices={devices}, and {processes.by} has started {processes.on_node} processes on each node, "
            f"one for a device: start it with {flag}={count}, or leave trainer.devices=auto, which takes what there is"
        )
    if nodes not in ("auto", processes.nodes):
        raise ConfigError(
            f"trainer.num_nodes={nodes}, and {processes.by} runs on {processes.nodes}: start it with --nodes={nodes} "
            "(--nnodes for torchrun), or leave trainer.num_nodes=auto"
        )
    if processes.by == SRUN and count is None and trainer["accelerator"] != "cpu":
        _check_all_used(processes.on_node)
    _check_there(trainer["accelerator"], processes.on_node, processes.on_node, processes)
    return {"devices": processes.on_node if count is None else devices, "num_nodes": processes.nodes}


def say_processes(trainer: lightning.Trainer) -> None:
    """A line at rank 0, `4 ranks by torchrun, 2 nodes, 1 device each`; none for a process that is alone."""
    by, ranks, nodes = find_processes().by, trainer.world_size, trainer.num_nodes
    if trainer.is_global_zero and (by or ranks > 1):
        counts = f"{ranks} rank{'s' * (ranks != 1)} by {by or 'this process'}, {nodes} node{'s' * (nodes != 1)}"
        print(f"{counts}, 1 device each", flush=True)


class SrunEnvironment(ClusterEnvironment):
    """The tasks of a job step, for Lightning.

    Its own environment for Slurm wants --ntasks-per-node, brings handlers that requeue in the middle of an update, and
    goes by the job where srun may have started fewer tasks than that.
    """

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self._processes = processes

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        if self._processes.nodes == 1:
            return "127.0.0.1"
        return os.environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(
            os.environ["SLURM_STEP_NODELIST"]
        )

    @property
    def main_port(self) -> int:
        """The same on every node without a word between them: of the numbers of job and step, as a job may have several
        at a time, and below those that systems lend."""
        told = os.environ.get("MASTER_PORT")
        job, step = (int(os.environ[name]) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return int(told) if told else FIRST_PORT + (job + STEP_APART * step) % PORTS

    @staticmethod
    def detect() -> bool:
        return _in_step(os.environ)

    def world_size(self) -> int:
        return self._processes.ranks

    def set_world_size(self, size: int) -> None:
        """srun has set it."""

    def global_rank(self) -> int:
        return self._processes.rank

    def set_global_rank(self, rank: int) -> None:
        """srun has set it."""

    def local_rank(self) -> int:
        return self._processes.local_rank

    def node_rank(self) -> int:
        return self._processes.node

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Done, by `place_processes`."""


def _in_step(environ: Mapping[str, str]) -> bool:
    """Whether srun has started this process as a rank: a batch script has the job's variables too, and no step; a shell
    that a person is sitting in has both."""
    step = environ.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) < FIRST_SPECIAL_STEP and "SLURM_PROCID" in environ and not _in_shell(environ)


def _in_shell(environ: Mapping[str, str]) -> bool:
    """Whether this process's step is a person's shell.

    A job's name goes on to every step in it, so it tells nothing of several tasks. SLURM_PTY_PORT, of `srun --pty`,
    goes on to what is started from that shell by srun and sbatch, which then have no terminal.
    """
    if environ.get("SLURM_JOB_NAME") in INTERACTIVE and environ.get("SLURM_STEP_NUM_TASKS") == "1":
        return True
    return "SLURM_PTY_PORT" in environ and in_terminal()


def asked_devices(devices: Any) -> int:
    """The number of devices that trainer.devices asks for, where it is not `auto`. ConfigError for what is none."""
    if isinstance(devices, list | tuple):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    if isinstance(devices, str) and devices.isdigit():
        return int(devices)
    return whole("trainer.devices", devices, 1)


def _check_alone(nodes: Any, count: int | None) -> None:
    tasks = int(os.environ.get("SLURM_NTASKS") or 1)
    if tasks > 1 and count != 1 and "LOCAL_RANK" not in os.environ:
        raise ConfigError(
            f"this Slurm job has {tasks} tasks, and one process was started without srun: put srun before python, as "
            "in scripts/train.sbatch"
        )
    if nodes not in ("auto", 1):
        raise ConfigError(
            f"trainer.num_nodes={nodes}, and a process can start others on its own node alone: start one on each "
            "device of every node, with srun (scripts/train.sbatch) or torchrun"
        )


def _check_all_used(tasks: int) -> None:
    """ConfigError where srun has started fewer tasks on this node than the job has GPUs there."""
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if gpus.isdigit() and int(gpus) > tasks:
        raise ConfigError(
            f"srun has started {tasks} task{'s' * (tasks != 1)} on a node where the job has {gpus} GPUs, one for each "
            f"task: start {gpus}, with --ntasks-per-node={gpus}, or say trainer.devices={tasks}, and others stay idle"
        )


def _check_there(accelerator: str, count: int | None, asked: Any, processes: Processes) -> None:
    """ConfigError where more devices are asked for than there are. On a CPU as many processes run as are asked for,
    but more than there are cores only where it was said that they shall run on it."""
    if count is None or accelerator not in ("auto", "cuda", "gpu"):
        return
    if CUDAAccelerator.is_available():
        there = torch.cuda.device_count()
        if count > there:
            shared = (
                "each task is shown its own device alone: leave out --gpus-per-task and --gpu-bind, and give the "
                f"node's to all its tasks with --gpus-per-node={count}"
                if processes.by == SRUN and there == 1
                else f"set trainer.devices={there}, or leave it at auto (CUDA_VISIBLE_DEVICES may hide some)"
            )
            raise ConfigError(f"{asked} CUDA devices are asked for on this machine, and there are {there}: {shared}")
    elif accelerator == "auto" and count > len(os.sched_getaffinity(0)):
        raise ConfigError(
            f"trainer.devices={asked}: there is no CUDA device here, and there are {len(os.sched_getaffinity(0))} "
            "cores for processes; trainer.accelerator=cpu runs as many as are asked for"
        )

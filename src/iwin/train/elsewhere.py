"""What can be known to be wrong with a run on a machine that need not have its devices: one to submit from, or to plan
on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iwin.errors import ConfigError, whole
from iwin.train.checks import check_run, check_trainer
from iwin.train.launcher_keys import processes
from iwin.train.processes import ALL_HERE, asked_devices
from iwin.train.sharded import check_sharded


def check_elsewhere(config: dict[str, Any], model_choice: str) -> None:
    """What training checks before it builds anything, of a resolved configuration. ConfigError as there."""
    check_trainer(where_devices_are(config["trainer"]))
    check_run(config, model_choice)
    check_sharded(config)


def where_devices_are(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """`trainer` as it is to be looked at on a machine that need not have the devices."""
    if trainer["accelerator"] == "cpu":
        return dict(trainer)
    precision = "bf16-mixed" if trainer["precision"] == "16-mixed" else trainer["precision"]
    return {**trainer, "accelerator": "cpu", "precision": precision}


def check_launched(trainer: Mapping[str, Any], launcher: Mapping[str, Any]) -> None:
    """ConfigError where the processes of a Slurm job are not those that `trainer` asks for, or not as many as its GPUs.

    launcher: checked keys of hydra/launcher=slurm.
    """
    nodes, tasks = processes(launcher)
    gpus = launcher.get("gpus_per_node")
    devices = trainer["devices"]
    if devices not in ALL_HERE and asked_devices(devices) != tasks:
        key = "gpus_per_node" if gpus and trainer["accelerator"] != "cpu" else "tasks_per_node"
        raise ConfigError(
            f"trainer.devices={devices}, and the job would have {tasks} process{'es' * (tasks != 1)} on each node, one "
            f"for a device: set hydra.launcher.{key}={asked_devices(devices)}, or trainer.devices=auto"
        )
    if trainer["num_nodes"] != "auto" and whole("trainer.num_nodes", trainer["num_nodes"], 1) != nodes:
        raise ConfigError(
            f"trainer.num_nodes={trainer['num_nodes']}, and the job would have {nodes}: set "
            f"hydra.launcher.nodes={trainer['num_nodes']}, or trainer.num_nodes=auto"
        )
    if trainer["accelerator"] == "cpu" or not gpus:
        return
    asked = f"hydra.launcher.tasks_per_node={tasks} and hydra.launcher.gpus_per_node={gpus}"
    if tasks > gpus:
        raise ConfigError(
            f"{asked}: a process needs a device of its own; leave tasks_per_node out, it follows the GPUs"
        )
    if tasks < gpus and devices in ALL_HERE:
        raise ConfigError(
            f"{asked}: a process trains on one device; leave tasks_per_node out, it follows the GPUs, or say with "
            f"trainer.devices={tasks} that the others stay idle"
        )

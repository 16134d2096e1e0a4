"""What can be known to be wrong with a run on a machine that need not have its devices: one to submit from, or to plan
on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iwin.errors import ConfigError
from iwin.train.checks import check_run, check_trainer
from iwin.train.launcher_keys import processes
from iwin.train.processes import SRUN, Processes, place_processes
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
    place_processes(where_devices_are(trainer), Processes(SRUN, nodes * tasks, nodes))
    gpus = launcher.get("gpus_per_node")
    if trainer["accelerator"] == "cpu" or not gpus:
        return
    asked = f"hydra.launcher.tasks_per_node={tasks} and hydra.launcher.gpus_per_node={gpus}"
    if tasks > gpus:
        raise ConfigError(
            f"{asked}: a process needs a device of its own; leave tasks_per_node out, it follows the GPUs"
        )
    if tasks < gpus and trainer["devices"] in ("auto", -1, "-1"):
        raise ConfigError(
            f"{asked}: a process trains on one device; leave tasks_per_node out, it follows the GPUs, or say with "
            f"trainer.devices={tasks} that the others stay idle"
        )

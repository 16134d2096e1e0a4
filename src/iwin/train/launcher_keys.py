"""The keys of hydra/launcher=slurm: checked before submitit has them, which takes some as they are and drops others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iwin.errors import ConfigError, near_names, number, whole

# Keys that are whole numbers, with the least of each. No GPU and no limit of time are 0 to Slurm.
WHOLE = {
    "nodes": 1,
    "tasks_per_node": 1,
    "cpus_per_task": 1,
    "cpus_per_gpu": 1,
    "gpus_per_task": 1,
    "gpus_per_node": 0,
    "timeout_min": 0,
    "signal_delay_s": 0,
    "array_parallelism": 1,
}
LINES = ("setup", "teardown")
SWITCHES = ("requeue", "stderr_to_stdout")
TEXTS = (
    *("name", "partition", "account", "qos", "constraint", "comment", "exclude", "nodelist", "gres", "dependency"),
    *("mem", "mem_per_cpu", "mem_per_gpu", "mail_type", "mail_user", "wckey"),
)
KEYS = (*WHOLE, *LINES, *SWITCHES, *TEXTS, "mem_gb", "exclusive", "srun_args", "additional_parameters")
# As submitit names what it knows of any scheduler; the rest has slurm_ before it.
ANY_SCHEDULER = ("name", "nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "mem_gb", "timeout_min")
TARGET = "_target_"  # which is Hydra's
# A signal to all of a job reaches its script as well, which is to see how srun ends. srun would else not know of
# --cpus-per-task, and have a process and its data workers share one core.
FIRST_LINES = ("trap : TERM USR1 USR2", "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}")
# The site's `set -e` is for its own lines: the script is to see how srun ends, also where that is no success.
LAST_LINE_OF_SETUP = "set +e"
# Whatever the site's lines at the end do: Slurm is told how the run ended.
KEEP_CODE = ("iwin_code=$?", "trap 'exit $iwin_code' EXIT")


def check_launcher(launcher: Mapping[str, Any]) -> None:
    """ConfigError for a key that there is not, and for a value that is not what its key wants. None is no value."""
    for key, value in launcher.items():
        if key == TARGET:
            continue
        place = f"hydra.launcher.{key}"
        if key == "use_srun":
            raise ConfigError(
                f"{place} has no place here: it is srun that starts a process for each device, and tells it its rank. "
                "What srun is to be told goes to +hydra.launcher.srun_args=[...]"
            )
        if key not in KEYS:
            raise ConfigError(f"hydra.launcher: there is no key {key!r}; {near_names(str(key), KEYS)}")
        if value is not None:
            _kind(key)(place, value)


def processes(launcher: Mapping[str, Any]) -> tuple[int, int]:
    """Nodes, and processes on each: one for each of its GPUs, where tasks_per_node does not say."""
    return launcher.get("nodes") or 1, launcher.get("tasks_per_node") or launcher.get("gpus_per_node") or 1


def parameters(launcher: Mapping[str, Any], at_end: str) -> dict[str, Any]:
    """For submitit, from checked keys. at_end: the line of the batch script that comes after srun."""
    keys = {key: value for key, value in launcher.items() if value is not None and key != TARGET}
    keys["nodes"], keys["tasks_per_node"] = processes(launcher)
    requeued = "requeue" if keys.pop("requeue", True) else "no-requeue"
    keys["additional_parameters"] = {requeued: True, **keys.get("additional_parameters", {})}
    keys["setup"] = [*FIRST_LINES, *keys.get("setup", ()), LAST_LINE_OF_SETUP]
    own_end = keys.pop("teardown", ())
    keys["teardown"] = [at_end, *KEEP_CODE, *own_end] if own_end else [at_end]
    keys["use_srun"] = False  # the command begins with an srun of ours
    keys.pop("srun_args", None)
    return {key if key in ANY_SCHEDULER else f"slurm_{key}": value for key, value in keys.items()}


def _kind(key: str) -> Callable[[str, Any], object]:
    if key == "gpus_per_node":
        return _gpus
    if key in WHOLE:
        return lambda place, value: whole(place, value, WHOLE[key])
    kinds = {"mem_gb": _memory, "exclusive": _exclusive, "srun_args": _lines, "additional_parameters": _parameters}
    return kinds.get(key) or (_lines if key in LINES else _switch if key in SWITCHES else _text)


def _gpus(place: str, value: Any) -> None:
    try:
        whole(place, value, WHOLE["gpus_per_node"])
    except ConfigError as error:
        raise ConfigError(
            f"{error}. GPUs of a kind: {place}=null hydra.launcher.tasks_per_node=8 +hydra.launcher.gres=gpu:a100:8"
        ) from None


def _memory(place: str, value: Any) -> None:
    number(place, value, 0)


def _switch(place: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{place} must be true or false, got {value}")


def _exclusive(place: str, value: Any) -> None:
    if not isinstance(value, bool):
        _text(place, value)


def _lines(place: str, value: Any) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{place} must be a list of texts, as {place}=[one,two], got {value!r}")


def _text(place: str, value: Any) -> None:
    """Also a number, as a name may be one. In one line: it becomes an #SBATCH line of the script."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or "\n" in str(value):
        raise ConfigError(f"{place} must be a text in one line, got {value!r}")


def _parameters(place: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place} must be options of sbatch with their values, as {{reservation: mine}}, got {value}")
    for name, one in value.items():
        if one is not True:
            _text(f"{place}.{name}", one)

"""The parts of a run as its configuration says: data, model, weights, teacher, trainer."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from iwin.errors import ConfigError, near_names
from iwin.models.count import count_model
from iwin.runtime import seed_at
from iwin.train.checks import check_image_size
from iwin.train.processes import find_processes, place_processes
from iwin.train.run_folder import find_checkpoint
from iwin.train.teacher import Teacher
from iwin.weights.load import load_pretrained
from iwin.weights.report import LoadReport


def global_rank() -> int:
    """This process's rank as its launcher says; 0 before Lightning has started others."""
    return find_processes().rank


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """`cfg` resolved, as plain dicts and lists that JSON and checkpoints can hold."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def build_data(cfg: DictConfig, splits: tuple[str, ...] = ("train", "val")) -> Any:
    """The data module, checked to be there and to be what the configuration says."""
    data = instantiate(cfg.data, _recursive_=False, _convert_="all")
    data.check(splits)
    if cfg.data.num_classes is None:
        cfg.data.num_classes = data.num_classes
    return data


def build_model(cfg: DictConfig) -> torch.nn.Module:
    """The model as initialised from the seed, or as `init` says."""
    seed_at(cfg.seed, "weights")
    model = instantiate(cfg.model, _recursive_=False, _convert_="all")
    check_image_size(model, plain_config(cfg.data)["image_size"])
    init = plain_config(cfg.init)
    if init:
        report = load_init(model, init)
        Console(quiet=global_rank() != 0).print(f"{report}\n", highlight=False, markup=False, soft_wrap=True)
    return model


def count_config(cfg: DictConfig) -> dict[str, int | None]:
    """Parameters and FLOPs of the configured model; FLOPs None where torch cannot count them without computing.

    Raises as the model's making, and `check_image_size`.
    """
    size = plain_config(cfg.data)["image_size"]
    sides = (size, size) if isinstance(size, int) else (size[0], size[1])
    with torch.device("meta"):
        model = instantiate(cfg.model, _recursive_=False, _convert_="all")
    check_image_size(model, size)
    try:
        return dict(count_model(model, sides, cfg.model.in_chans)._asdict())
    except NotImplementedError:  # some of timm's models need values to know their shapes
        return {"parameters": sum(p.numel() for p in model.parameters()), "flops": None}


def load_init(model: torch.nn.Module, init: dict[str, Any]) -> LoadReport:
    """The weights that the `init` configuration names. ConfigError as `init_file`."""
    return load_pretrained(model, init_file(init), **{key: value for key, value in init.items() if key != "path"})


def init_file(init: dict[str, Any]) -> Path:
    """The file that `init.path` names; of a run's folder its best checkpoint.

    ConfigError for a key that loading does not have, where there is no path, and where there is nothing.
    """
    keys = ["path", *list(inspect.signature(load_pretrained).parameters)[2:]]
    for key in init:
        if key not in keys:
            raise ConfigError(f"there is no key init.{key}; {near_names(key, keys)}")
    if init.get("path") is None:
        raise ConfigError("init.path is needed: the weights to begin from, a file or the folder of a run")
    path = Path(init["path"]).expanduser()
    if not path.exists():
        raise ConfigError(f"init.path={init['path']}: there is no such file or folder")
    return find_checkpoint(str(path)) if path.is_dir() else path


def build_teacher(cfg: DictConfig) -> Teacher | None:
    """What the student learns from besides the labels, if `teacher` says so."""
    if not cfg.teacher:
        return None
    teacher = instantiate(cfg.teacher).build(plain_config(cfg.data))
    text = f"Of the teacher:\n{teacher.report}\n"
    Console(quiet=global_rank() != 0).print(text, highlight=False, markup=False, soft_wrap=True)
    return teacher


def build_trainer(cfg: DictConfig, **keys: Any) -> lightning.Trainer:
    """Lightning's trainer on the processes that there are. ConfigError for devices and strategies that are not here."""
    processes = find_processes()
    keys.update(place_processes(plain_config(cfg.trainer), processes))
    plugins = [*keys.pop("plugins", ()), processes.environment()]
    try:
        return instantiate(cfg.trainer, plugins=plugins, **keys)
    except (MisconfigurationException, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, MisconfigurationException) else error
        if not isinstance(cause, MisconfigurationException):
            raise
        raise ConfigError(f"the trainer cannot be set up: {cause}") from error


def share_cores(trainer: lightning.Trainer, workers: int) -> None:
    """On a CPU, leave each data worker a core: more busy threads than cores cost more than they bring.

    OMP_NUM_THREADS, where it is set, is left as it is.
    """
    if trainer.strategy.root_device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) // trainer.num_devices
        torch.set_num_threads(max(1, cores - workers))

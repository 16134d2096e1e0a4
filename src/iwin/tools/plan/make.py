"""The plan of a run: all that can be known before it, and all that it would fail with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks.weight_averaging import WeightAveraging
from omegaconf import DictConfig, OmegaConf

from iwin.data.mixup import BatchAugment
from iwin.data.sizes import check_takes_sizes
from iwin.errors import whole
from iwin.tools.doctor.job import ranks_of
from iwin.tools.plan.data import Data, find_data
from iwin.tools.plan.drawing import Curve, sample
from iwin.tools.plan.duration import Throughput, Time, given, of_run, time_of
from iwin.tools.plan.memory import Job, Memory, estimate
from iwin.tools.plan.problems import Problems
from iwin.tools.plan.standing import Standing, look
from iwin.train.build import build_teacher, count_config, init_file, load_init, plain_config
from iwin.train.checks import check_image_size, check_run, check_trainer
from iwin.train.elsewhere import check_launched, where_devices_are
from iwin.train.fit import SETUP_S, placed
from iwin.train.launcher_keys import check_launcher, processes
from iwin.train.processes import ALL_HERE, asked_devices
from iwin.train.run_folder import RunFolder, run_path
from iwin.train.run_plan import RunPlan, plan_run
from iwin.train.sharded import NAME, check_sharded
from iwin.train.strategies import use_ranks
from iwin.train.summary import StageFacts, stage_facts
from iwin.train.teacher import Teacher
from iwin.weights.report import LoadReport


@dataclass(frozen=True)
class Ranks:
    """Training processes, one for each device. kind: of the devices, cpu or cuda."""

    devices: int
    nodes: int
    kind: str

    @property
    def world(self) -> int:
        return self.devices * self.nodes


@dataclass(frozen=True)
class Model:
    """parameters: all of them; trained: those that are. flops: multiply-adds of an image's forward pass, or None."""

    module: torch.nn.Module
    parameters: int
    trained: int
    flops: int | None
    stages: list[StageFacts]


@dataclass(frozen=True)
class Plan:
    """What could be found out; a part is None where a problem stands in its way, or there is no such part.

    config: resolved. notes: what was assumed. problems: what training would fail with, in its order.
    """

    config: dict[str, Any]
    ranks: Ranks
    data: Data
    model: Model | None
    run: RunPlan | None
    curve: Curve | None
    memory: Memory | None
    throughput: Throughput | None
    time: Time | None
    weights: LoadReport | None
    teacher: Teacher | None
    standing: Standing | None
    notes: list[str]
    problems: list[str]


def make_plan(cfg: DictConfig, model_choice: str, images_per_s: float | None = None, like: Path | None = None) -> Plan:
    """Plan the run that `cfg` is. model_choice: the option of the group `model`.

    images_per_s, like: where a throughput is from, see duration.py. Nothing is computed and no image is read. Raises
    as `given` and `of_run`, since those are no part of training.
    """
    problems = Problems()
    notes: list[str] = []
    ranks = problems.of(lambda: find_ranks(cfg)) or Ranks(1, 1, "cuda")
    launcher = slurm_launcher()
    if launcher is not None:
        ranks = problems.of(lambda: launched_ranks(cfg, launcher)) or ranks
    problems.of(lambda: check_trainer(where_devices_are(plain_config(cfg.trainer))))
    problems.of(lambda: check_run(plain_config(cfg), model_choice))
    problems.of(lambda: check_sharded(plain_config(cfg)))
    optimizer = problems.of(lambda: instantiate(cfg.optimizer, _convert_="all"))
    schedule = problems.of(lambda: instantiate(cfg.schedule))
    init = plain_config(cfg.init)
    file = problems.of(lambda: init_file(init)) if init else None
    standing = problems.of(lambda: look(run_path(Path(cfg.paths.runs_dir), plain_config(cfg))))
    data, found = find_data(cfg, problems)
    config = plain_config(cfg)
    averaged = _check_callbacks(cfg, problems, standing)
    trainer = problems.of(lambda: _trainer(cfg))
    run = None
    if found.train is None:
        notes.append("the number of updates is not known before the data set is here")
    elif trainer is not None and data is not None:
        run = problems.of(lambda: plan_run(cfg, trainer, data, ranks.world))
    if found.classes_assumed:
        notes.append(f"data.num_classes is not known before the data set is here: {found.classes:,} are assumed")
    module = problems.of(lambda: _module(cfg))
    weights = None
    if module is not None and file is not None:
        weights = problems.of(lambda: _match(module, init))
    teacher = problems.of(lambda: build_teacher(cfg))
    task = None
    if module is not None and optimizer is not None and schedule is not None:
        # Where the batch does not fit, the rest of the task can still be looked at.
        stand_in = run or RunPlan(int(cfg.data.batch_size), ranks.world, 1, 1, 1)
        task = problems.of(
            lambda: instantiate(cfg.task, _partial_=True, compile=False)(
                model=module,
                optimizer=optimizer,
                schedule=schedule,
                plan=stand_in,
                num_classes=found.classes,
                seed=cfg.seed,
                run_config=config,
                teacher=teacher,
            )
        )
    model = None if module is None else problems.of(lambda: _model(cfg, module))
    curve = None
    if run is not None and task is not None:
        curve = problems.of(lambda: sample(task.model, task.optimizer, task.schedule, run))
        problems.of(lambda: _check_sizes(data, module, run))
    memory = None
    if task is not None and data is not None:
        memory = estimate(_job(cfg, task, data, ranks, averaged), ranks.kind)
        if memory is None:
            notes.append("memory is not counted: torch cannot go through this model without values")
        elif cfg.task.compile:
            notes.append("memory is counted without task.compile, which keeps less")
    throughput = given(images_per_s) if images_per_s is not None else None
    if like is not None:
        throughput = of_run(like, None if model is None else model.flops)
    return Plan(
        config=config,
        ranks=ranks,
        data=found,
        model=model,
        run=run,
        curve=curve,
        memory=memory,
        throughput=throughput,
        time=None if run is None or throughput is None else time_of(run, throughput),
        weights=weights,
        teacher=teacher,
        standing=standing,
        notes=notes,
        problems=problems.messages,
    )


def find_ranks(cfg: DictConfig) -> Ranks:
    """As the configuration says; `auto` is what is here: its devices, one node. ConfigError for what is no number.

    The devices are CUDA's, here or elsewhere, where trainer.accelerator is not cpu.
    """
    trainer = plain_config(cfg.trainer)
    devices, on_cpu = trainer["devices"], trainer["accelerator"] == "cpu"
    here = 1 if on_cpu else ranks_of("auto")
    count = here if devices in ALL_HERE else asked_devices(devices)
    nodes = 1 if trainer["num_nodes"] == "auto" else whole("trainer.num_nodes", trainer["num_nodes"], 1)
    return Ranks(count, nodes, "cpu" if on_cpu else "cuda")


def slurm_launcher() -> dict[str, Any] | None:
    """The keys of hydra/launcher=slurm in the configuration that was composed last; None where that is not chosen."""
    hydra = HydraConfig.get()
    if hydra.runtime.choices["hydra/launcher"] != "slurm":
        return None
    keys = OmegaConf.to_container(hydra.launcher, resolve=True)
    assert isinstance(keys, dict)
    return {str(key): value for key, value in keys.items()}


def launched_ranks(cfg: DictConfig, launcher: Mapping[str, Any]) -> Ranks:
    """As the job will have them. ConfigError for keys that cannot be used, and for what contradicts the trainer."""
    check_launcher(launcher)
    trainer = plain_config(cfg.trainer)
    check_launched(trainer, launcher)
    nodes, on_node = processes(launcher)
    return Ranks(on_node, nodes, "cpu" if trainer["accelerator"] == "cpu" else "cuda")


def _check_callbacks(cfg: DictConfig, problems: Problems, standing: Standing | None) -> bool:
    """Make every callback; returns whether one of them keeps an average of the weights on the device."""
    folder = RunFolder(Path("run") if standing is None else standing.folder, None)
    made = []
    for name, node in cfg.callbacks.items():
        if node:
            made.append(problems.of(partial(instantiate, node, **placed(name, folder))))
    return any(isinstance(callback, WeightAveraging) and callback._device is None for callback in made)


def _trainer(cfg: DictConfig) -> Any:
    """Lightning's trainer on one process here, for its limits of batches."""
    use_ranks(SETUP_S)
    here = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true"}
    plugins = [LightningEnvironment()]  # not one of the job that this may run in
    return instantiate(cfg.trainer, **here, plugins=plugins, logger=False, enable_checkpointing=False)


def _module(cfg: DictConfig) -> torch.nn.Module:
    with torch.device("meta"):
        module = instantiate(cfg.model, _recursive_=False, _convert_="all")
    check_image_size(module, plain_config(cfg.data)["image_size"])
    return module


def _model(cfg: DictConfig, module: torch.nn.Module) -> Model:
    parameters = list(module.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    counts = count_config(cfg)
    return Model(module, int(counts["parameters"] or 0), trained, counts["flops"], stage_facts(module))


def _match(module: torch.nn.Module, init: dict[str, Any]) -> LoadReport:
    """Compare the file with the model; its values go nowhere, as the model is on the meta device."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter.*")
        return load_init(module, init)


def _check_sizes(data: Any, module: Any, run: RunPlan) -> None:
    if data.progressive is not None:
        starts = data.progressive.starts(per_epoch=run.per_epoch, epochs=run.epochs)
        check_takes_sizes(module, [size for _, size in starts])


def _job(cfg: DictConfig, task: Any, data: Any, ranks: Ranks, averaged: bool) -> Job:
    sizes = [data.image_size, *(data.progressive.sizes.values() if data.progressive is not None else ())]
    channels = int(cfg.model.in_chans)
    mix = BatchAugment(data.recipe, int(cfg.data.num_classes), data.mean, data.std, 0).mix
    validates = cfg.trainer.limit_val_batches != 0
    return Job(
        model=task.model,
        optimizer=task.optimizer,
        loss=task.loss,
        size=(data.batch_size, channels, *max(sizes, key=lambda size: size[0] * size[1])),
        eval_size=(data.eval_batch_size, channels, *data.image_size) if validates else None,
        classes=int(cfg.data.num_classes) if mix is not None else None,
        precision=str(cfg.trainer.precision),
        world=ranks.world,
        sharded=cfg.trainer.strategy == NAME,
        averaged=averaged,
        teacher=task.teacher,
    )

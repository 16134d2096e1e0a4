"""Training, from a configuration to its results."""

from __future__ import annotations

import inspect
import os
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from iwin.errors import ConfigError, near_names
from iwin.models.count import count_model
from iwin.runtime import code_version, seed_at
from iwin.secrets import redact
from iwin.train.before import validate_before, validated_before
from iwin.train.callbacks.checkpoints import Checkpoints
from iwin.train.callbacks.resumed_log import ResumedLog
from iwin.train.callbacks.throughput import Throughput, peak_memory
from iwin.train.cell import cell_folder
from iwin.train.checkpoint import DurableCheckpointIO
from iwin.train.checks import check_image_size, check_run, check_trainer
from iwin.train.launcher import use_ranks
from iwin.train.optim import Optimizer
from iwin.train.ranks import OneRun
from iwin.train.recovery import Recovery
from iwin.train.resume_point import agree_on_checkpoint
from iwin.train.rollback import read_roll_backs, train_with_roll_backs
from iwin.train.run_folder import RunFolder, find_checkpoint, run_path, shown
from iwin.train.run_plan import plan_run
from iwin.train.schedule import Schedule
from iwin.train.summary import print_summary
from iwin.train.teacher import Teacher
from iwin.weights.load import load_pretrained
from iwin.weights.report import LoadReport

LINE_WIDTH = 110  # of the table where the output is no terminal
WRITE_IN_FOLDER = ("curves", "bad_samples", "nonfinite", "heartbeat")
SETUP_S = 300.0  # for the ranks to come together, where no callbacks.heartbeat says


def global_rank() -> int:
    """This process's rank as its launcher says; 0 before Lightning has started others."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


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
    """Lightning's trainer. ConfigError for devices and strategies that are not here."""
    try:
        return instantiate(cfg.trainer, **keys)
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


def facts(config: dict[str, Any], data: Any) -> dict[str, Any]:
    """What every rank of a run must have alike."""
    versions = {"torch": torch.__version__, "lightning": lightning.__version__}
    shared = {key: value for key, value in config.items() if key not in ("paths", "logger")}
    return {**shared, "data set": data.describe(), "code": code_version(), "versions": versions}


def fit(cfg: DictConfig) -> None:
    """Train as `cfg` says, in a run folder of its own, going on where the same command stopped before."""
    check_trainer(plain_config(cfg.trainer))
    check_run(plain_config(cfg), HydraConfig.get().runtime.choices["model"])
    optimizer, schedule = instantiate(cfg.optimizer, _convert_="all"), instantiate(cfg.schedule)
    if cfg.init:
        init_file(plain_config(cfg.init))  # that it is there, before anything else is made
    first = cell_folder() or run_path(Path(cfg.paths.runs_dir), plain_config(cfg))
    data = build_data(cfg)
    config = redact(plain_config(cfg))
    with RunFolder.take(first, global_rank()) as folder:
        train_with_roll_backs(
            lambda: _train(cfg, config, folder, data, optimizer, schedule),
            folder=folder.path,
            data=data,
            writes=global_rank() == 0,
        )


def _train(
    cfg: DictConfig, config: dict[str, Any], folder: RunFolder, data: Any, optimizer: Optimizer, schedule: Schedule
) -> None:
    """From the newest checkpoint, or the beginning, to the results. RollBack where this has to be done once more."""
    callbacks = {name: instantiate(node, **_placed(name, folder)) for name, node in cfg.callbacks.items() if node}
    throughput = Throughput()
    use_ranks(getattr(callbacks.get("heartbeat"), "setup_s", SETUP_S))
    trainer = build_trainer(
        cfg,
        callbacks=[*callbacks.values(), throughput, ResumedLog(), OneRun(facts(config, data))],
        logger=[instantiate(node, folder=folder.path) for node in cfg.logger.values() if node],
        plugins=[DurableCheckpointIO()],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks.values()),
        default_root_dir=folder.path,
    )
    plan = plan_run(cfg, trainer, data)
    schedule.check(per_epoch=plan.per_epoch, total=plan.total)
    share_cores(trainer, cfg.data.num_workers)
    counts = count_config(cfg)
    model, teacher = build_model(cfg), build_teacher(cfg)
    task = instantiate(cfg.task, _partial_=True)(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        plan=plan,
        num_classes=cfg.data.num_classes,
        seed=cfg.seed,
        run_config=config,
        teacher=teacher,
    )
    console = Console(quiet=not trainer.is_global_zero, width=None if sys.stdout.isatty() else LINE_WIDTH)
    recovery = agree_on_checkpoint(trainer, folder)
    if trainer.is_global_zero:
        folder.write_start(config, cfg.seed, data.describe(), recovery)
    device = f"{trainer.num_devices} x {trainer.strategy.root_device.type}"
    print_summary(
        console,
        config=config,
        model=model,
        data=data,
        plan=plan,
        schedule=schedule,
        teacher=teacher,
        device=device,
        folder=shown(folder.path),
    )
    _say_start(console, folder, recovery)
    seed_at(cfg.seed, "start")
    started = time.monotonic()
    with ExitStack() as watched:
        for callback in callbacks.values():  # heartbeat and preemption are on duty around the whole of it
            if isinstance(callback, AbstractContextManager):
                watched.enter_context(callback)
        if cfg.init and recovery.checkpoint is None:
            validate_before(trainer, task, data)
        trainer.fit(task, datamodule=data, ckpt_path=recovery.checkpoint, weights_only=True)
    if trainer.is_global_zero:
        result = _result(trainer, callbacks.get("checkpoints"), time.monotonic() - started)
        result["before"] = validated_before(folder.path) if cfg.init else None
        result.update(counts, images_per_s=throughput.images_per_s)
        result["peak_memory_bytes"], result["peak_memory_of"] = peak_memory(trainer.strategy.root_device)
        if "nonfinite" in callbacks:
            result["skipped_updates"] = callbacks["nonfinite"].skipped
            result["roll_backs"] = len(read_roll_backs(folder.path))
        folder.write_result(result)
        _print_result(console, folder, result)


def _say_start(console: Console, folder: RunFolder, recovery: Recovery) -> None:
    for note in recovery.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if folder.resumed:
        checkpoint = recovery.checkpoint
        start = "its beginning" if checkpoint is None else str(checkpoint.relative_to(folder.path))
        console.print(f"This command has an unfinished run in that folder: going on from {start}.\n")
    elif folder.passed_over:
        console.print(f"This is a new run, as {folder.passed_over}.\n")


def _placed(name: str, folder: RunFolder) -> dict[str, Any]:
    """Where in the run folder a callback writes."""
    here = {"folder": folder.path}
    places = {"checkpoints": {"folder": folder.checkpoints}}
    return places.get(name, here if name in WRITE_IN_FOLDER else {})


def _result(trainer: lightning.Trainer, checkpoints: Checkpoints | None, seconds: float) -> dict[str, Any]:
    """The numbers of the last validation, which checkpoint is the best, and how long this start took."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    best = None if checkpoints is None else checkpoints.best
    return {
        "last": metrics,
        "best": None if checkpoints is None or best is None else {"metric": checkpoints.monitor, **best._asdict()},
        "epochs": trainer.current_epoch,
        "updates": trainer.global_step,
        "seconds_since_last_start": round(seconds, 1),
    }


def _print_result(console: Console, folder: RunFolder, result: dict[str, Any]) -> None:
    last, best = result["last"], result["best"]
    if "val/top1" in last:
        console.print(
            f"\nDone in {result['seconds_since_last_start']:.0f} s: top-1 {100 * last['val/top1']:.2f} % at the end, "
            + (f"{100 * best['score']:.2f} % at best." if best and best["metric"] == "val/top1" else "no best kept.")
        )
    console.print(f"Results   {shown(folder.path)}", soft_wrap=True)
    console.print(f"Evaluate  python eval.py checkpoint={shown(folder.path)}", soft_wrap=True)

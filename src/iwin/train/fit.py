"""Training, from a configuration to its results."""

from __future__ import annotations

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
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from iwin.runtime import code_version, seed_at
from iwin.secrets import redact
from iwin.train.before import validate_before, validated_before
from iwin.train.build import (
    build_data,
    build_model,
    build_teacher,
    build_trainer,
    count_config,
    global_rank,
    init_file,
    plain_config,
    share_cores,
)
from iwin.train.callbacks.checkpoints import Checkpoints
from iwin.train.callbacks.resumed_log import ResumedLog
from iwin.train.callbacks.throughput import Throughput, peak_memory
from iwin.train.cell import cell_folder
from iwin.train.checkpoint import DurableCheckpointIO
from iwin.train.checks import check_run, check_trainer
from iwin.train.claim import claim
from iwin.train.meeting import all_make, bring_together, patiently, take_folder
from iwin.train.optim import Optimizer
from iwin.train.processes import say_processes
from iwin.train.ranks import OneRun
from iwin.train.recovery import Recovery
from iwin.train.resume_point import agree_on_checkpoint
from iwin.train.rollback import read_roll_backs, train_with_roll_backs
from iwin.train.run_folder import RunFolder, run_path, shown
from iwin.train.run_plan import plan_run
from iwin.train.schedule import Schedule
from iwin.train.sharded import check_sharded
from iwin.train.strategies import use_ranks
from iwin.train.summary import print_summary

LINE_WIDTH = 110  # of the table where the output is no terminal
WRITE_IN_FOLDER = ("curves", "bad_samples", "nonfinite", "heartbeat")
SETUP_S = 300.0  # for the ranks to come together, where no callbacks.heartbeat says


def facts(config: dict[str, Any], data: Any) -> dict[str, Any]:
    """What every rank of a run must have alike."""
    versions = {"torch": torch.__version__, "lightning": lightning.__version__}
    shared = {key: value for key, value in config.items() if key not in ("paths", "logger")}
    return {**shared, "data set": data.describe(), "code": code_version(), "versions": versions}


def setup_s(cfg: DictConfig) -> float:
    """Seconds that the ranks have to come together."""
    return float(OmegaConf.select(cfg, "callbacks.heartbeat.setup_s", default=SETUP_S))


def fit(cfg: DictConfig) -> None:
    """Train as `cfg` says, in a run folder of its own, going on where the same command stopped before."""
    check_trainer(plain_config(cfg.trainer))
    check_run(plain_config(cfg), HydraConfig.get().runtime.choices["model"])
    check_sharded(plain_config(cfg))
    optimizer, schedule = instantiate(cfg.optimizer, _convert_="all"), instantiate(cfg.schedule)
    if cfg.init:
        init_file(plain_config(cfg.init))  # that it is there, before anything else is made
    cell = cell_folder()
    wanted = plain_config(cfg)
    first = cell or run_path(Path(cfg.paths.runs_dir), wanted)
    use_ranks(setup_s(cfg))
    first_trainer = build_trainer(cfg, logger=False, enable_checkpointing=False)
    say_processes(first_trainer)
    with patiently(first_trainer, setup_s(cfg)):
        bring_together(first_trainer)
        folder = take_folder(
            lambda meanwhile: claim(first, redact(wanted), global_rank(), cell=cell is not None, meanwhile=meanwhile)
        )
    if folder is None:
        return
    with folder:
        with patiently(first_trainer, setup_s(cfg)):
            data = all_make(lambda: build_data(cfg))
        config = redact(plain_config(cfg))
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
    callbacks = {name: instantiate(node, **placed(name, folder)) for name, node in cfg.callbacks.items() if node}
    throughput = Throughput()
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
    if data.progressive is not None:
        data.progressive.starts(per_epoch=plan.per_epoch, epochs=plan.epochs)
    share_cores(trainer, cfg.data.num_workers)
    counts = count_config(cfg)
    with patiently(trainer, setup_s(cfg)):
        recovery = agree_on_checkpoint(trainer, folder)
    # Before memory is taken: a start that is killed for that is to count (see check_progress).
    if trainer.is_global_zero:
        folder.write_start(config, cfg.seed, data.describe(), recovery)
    try:
        model, teacher = build_model(cfg), build_teacher(cfg)
    except Exception:
        if trainer.is_global_zero:
            folder.take_back_start()
        raise
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
        result.update(counts, images_per_s=throughput.images_per_s, ranks=plan.world)
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


def placed(name: str, folder: RunFolder) -> dict[str, Any]:
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

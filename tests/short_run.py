"""A short training run on the digits, assembled by hand: in a test's process, or as a program with several ranks.

As a program: python short_run.py FOLDER JSON, where JSON has the arguments of `run`. It writes lines about
itself to stdout, and waits for a line on stdin at the event named by `pause`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import hydra
import lightning
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback

from iwin.app import register
from iwin.conf import conf_dir
from iwin.errors import UserError
from iwin.runtime import seed_at
from iwin.train.build import build_data, build_model, plain_config
from iwin.train.callbacks.heartbeat import Heartbeat
from iwin.train.callbacks.preemption import Preemption
from iwin.train.callbacks.resumed_log import ResumedLog
from iwin.train.launcher import Ranks
from iwin.train.metrics_csv import MetricsCSV
from iwin.train.ranks import OneRun
from iwin.train.run_plan import plan_run

SMALL = (
    "data.batch_size=16",
    "data.num_workers=0",
    "data.eval_batch_size=120",
    "schedule.warmup=1st",
    "log_every=1st",
)


class Events(Callback):
    """Calls `at` with what happens, by name: "update 3", "validation 1" and so on, at rank 0."""

    def __init__(self, at: Callable[[str], None]) -> None:
        self.at = at

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.at("train start")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.at(f"batch {batch_idx} of epoch {trainer.current_epoch}, update {trainer.global_step}")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.at(f"validation of epoch {trainer.current_epoch}")

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.at(f"validation batch {batch_idx} of epoch {trainer.current_epoch}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.at(f"end of epoch {trainer.current_epoch}")


class Record(Callback):
    """Each batch of this rank: update, sample indices, loss."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, list[int], float]] = []
        self.validated: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = batch.position.epoch * 1000 + batch.position.step
        self.batches.append((step, batch.indices.tolist(), float(outputs["loss"]) * trainer.accumulate_grad_batches))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.validated.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


def run(
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    at: Callable[[str], None] = lambda event: None,
    resume: bool = True,
    epochs: int = 2,
    batches: int = 4,
    validate: bool = True,
    ranks: int = 1,
    every: int = 10,
    training_s: float = 60.0,
    setup_s: float = 60.0,
    facts: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> lightning.Trainer:
    """Train, from the newest checkpoint in `folder` where there is one. Returns the trainer as it ended."""
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("train", [*SMALL, f"duration={epochs}ep", *overrides])
    checkpoints = folder / "checkpoints"

    def save(trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(checkpoints / f"update-{trainer.global_step:08d}.ckpt")

    heartbeat = Heartbeat(folder, setup_s=setup_s, training_s=training_s)
    preemption = Preemption(every=f"{every}st", save=save)
    parts = [heartbeat, preemption, ResumedLog(), OneRun(facts or {}), Events(at), *callbacks]
    if "ema" in cfg.callbacks:
        parts.insert(0, instantiate(cfg.callbacks.ema))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=Ranks(timeout=timedelta(seconds=setup_s)) if ranks > 1 else "auto",
        limit_train_batches=batches,
        limit_val_batches=None if validate else 0,
        accumulate_grad_batches=cfg.trainer.accumulate_grad_batches,
        gradient_clip_val=cfg.trainer.gradient_clip_val,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=True,
        callbacks=parts,
        logger=MetricsCSV(folder),
        default_root_dir=folder,
    )
    data, model = build_data(cfg), build_model(cfg)
    plan = plan_run(cfg, trainer, data)
    schedule = instantiate(cfg.schedule)
    schedule.warmup_updates(per_epoch=plan.per_epoch, total=plan.total)
    task = instantiate(cfg.task, _partial_=True)(
        model=model,
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        schedule=schedule,
        plan=plan,
        num_classes=cfg.data.num_classes,
        seed=cfg.seed,
        run_config=plain_config(cfg),
    )
    found = sorted(checkpoints.glob("*.ckpt")) if resume else []
    seed_at(cfg.seed, "start")
    with ExitStack() as stack:
        stack.enter_context(heartbeat)
        stack.enter_context(preemption)
        trainer.fit(task, datamodule=data, ckpt_path=found[-1] if found else None, weights_only=True)
    return trainer


def main() -> None:
    """Run as a rank, or as the program that starts them."""
    folder, told = Path(sys.argv[1]), json.loads(sys.argv[2])
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.set_num_threads(1)
    pause = told.pop("pause", None)
    told.update(told.pop("of_rank", {}).get(str(rank), {}))

    def at(event: str) -> None:
        if rank == 0:
            print(event, flush=True)
            if event == pause:
                sys.stdin.readline()

    print(f"rank {rank} is {os.getpid()}", flush=True)
    record = Record()
    try:
        trainer = run(folder, at=at, callbacks=[record], **told)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    weights = {name: value.tolist() for name, value in trainer.lightning_module.state_dict().items()}
    kept = {"batches": record.batches, "validated": record.validated, "weights": weights}
    (folder / f"record-{rank}.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main()

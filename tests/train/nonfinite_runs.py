"""Short runs that meet a NaN where they are told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import lightning
import torch
from hydra import compose
from torch import Tensor, nn

from iwin.app import register
from iwin.batch import Batch
from iwin.conf import conf_dir
from iwin.data.module import ImageDataModule
from iwin.train.build import build_data
from iwin.train.callbacks.nonfinite import NonFinite
from iwin.train.optim import Optimizer
from iwin.train.rollback import train_with_roll_backs
from iwin.train.run_plan import RunPlan
from iwin.train.schedule import Cosine
from iwin.train.task import ClassificationTask

PLACES = ("loss", "constant", "gradient", "input")
UPDATES = 10
BATCH = 4
THREE = {(0, 5), (0, 6), (0, 7)}


def digits(*overrides: str) -> ImageDataModule:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"data.batch_size={BATCH}", "data.num_workers=0", *overrides])
    return build_data(cfg)


class Task(ClassificationTask):
    """Something small with all that a NaN can get into: weights, momenta, running statistics, dropout's draws.

    at: the updates, as (attempt, update from 1), in which rank `rank` meets a NaN at `place`, in micro-batch 0. In
    place "omitted" nothing is wrong, and the step is left out: what a skipped update has to come to.
    """

    def __init__(
        self,
        at: set[tuple[int, int]] = frozenset(),
        place: str = "loss",
        rank: int = 0,
        accumulation: int = 1,
        **optimizer: Any,
    ) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.1), nn.Linear(3 * 32 * 32, 10))
        super().__init__(
            model=net,
            optimizer=Optimizer(**{"name": "adamw", "lr": 1e-2, "weight_decay": 0.05} | optimizer),
            schedule=Cosine("2st", 0.0, 0.0),
            plan=RunPlan(BATCH, 1, accumulation, UPDATES, 1),
            num_classes=10,
            seed=0,
            run_config={},
        )
        self.at, self.place, self.rank = at, place, rank
        self.now = False
        self.kept: dict[str, Tensor] = {}
        self.seen: list[tuple[int, int, tuple[int, ...]]] = []
        net[3].weight.register_hook(self.poison_gradient)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        update = (batch.position.attempt, self.global_step + 1)
        if batch.position.micro == 0:
            self.kept = {name: value.clone() for name, value in self.model.named_buffers()}
        self.seen.append((*update, tuple(batch.indices.tolist())))
        self.now = update in self.at and self.global_rank == self.rank and batch.position.micro == 0
        if self.now and self.place == "input":
            batch.images[1, 0, 5, 5] = float("nan")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.now and self.place == "loss":
            return loss * float("inf")
        return loss + float("nan") if self.now and self.place == "constant" else loss

    def poison_gradient(self, gradient: Tensor) -> Tensor:
        if not (self.now and self.place == "gradient"):
            return gradient
        gradient = gradient.clone()
        gradient[3, 7] = float("-inf")
        return gradient

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if self.place != "omitted" or not any(update == self.global_step + 1 for _, update in self.at):
            return super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer_closure()
        self.guard.skipped = torch.tensor(False)
        for name, value in self.model.named_buffers():
            value.copy_(self.kept[name])


class Save(lightning.Callback):
    """Saves after some updates, to `newest`; raises after one."""

    def __init__(self, folder: Path, *updates: int, die: int = -1) -> None:
        self.folder, self.updates, self.die = folder, updates, die

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step in self.updates:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step:03}.ckpt")
        if trainer.global_step == self.die:
            raise KeyError("killed")


def newest(folder: Path) -> Path | None:
    return max(folder.glob("*.ckpt"), default=None)


def run(
    task: ClassificationTask,
    folder: Path,
    *callbacks: lightning.Callback,
    data: ImageDataModule | None = None,
    accumulation: int = 1,
    guard: dict[str, int] | None = None,
    resume: Path | None = None,
    **options: Any,
) -> lightning.Trainer:
    folder.mkdir(exist_ok=True)
    trainer = lightning.Trainer(
        callbacks=[NonFinite(folder, **{"in_a_row": 3, "max_roll_backs": 2} | (guard or {})), *callbacks],
        limit_train_batches=UPDATES * accumulation,
        accumulate_grad_batches=accumulation,
        gradient_clip_val=5.0,
        **{"max_epochs": 1, "accelerator": "cpu", "devices": 1, "limit_val_batches": 0} | options,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task, datamodule=data or digits(), ckpt_path=resume, weights_only=True)
    return trainer


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


def everything(trainer: lightning.Trainer) -> dict[str, Any]:
    assert trainer.model is not None
    return {"model": trainer.lightning_module.model.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}


def finite(state: Any) -> bool:
    if isinstance(state, dict | list | tuple):
        return all(map(finite, state.values() if isinstance(state, dict) else state))
    return not isinstance(state, Tensor) or bool(torch.isfinite(state).all())


def make_and_train(
    folder: Path,
    at: set[tuple[int, int]],
    saves: tuple[int, ...],
    die: int = -1,
    optimizer: dict[str, Any] | None = None,
    **guard: int,
) -> tuple[lightning.Trainer, list[Task]]:
    """Train as the program does: everything anew after each roll-back, from the newest checkpoint."""
    data, tasks = digits(), []

    def once() -> lightning.Trainer:
        tasks.append(Task(at, "input", **(optimizer or {})))
        return run(tasks[-1], folder, Save(folder, *saves, die=die), data=data, guard=guard, resume=newest(folder))

    folder.mkdir(exist_ok=True)
    return train_with_roll_backs(once, folder=folder, data=data, writes=True), tasks

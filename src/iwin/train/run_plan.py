"""The arithmetic of a run: global batch, updates, effective rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning
from omegaconf import DictConfig

from iwin.durations import run_epochs, to_epochs, to_updates
from iwin.errors import ConfigError, whole
from iwin.train.optim import IMAGES_PER_RATE


@dataclass(frozen=True)
class RunPlan:
    """batch_size: images of one micro-batch on one rank. per_epoch: optimizer updates in an epoch."""

    batch_size: int
    world: int
    accumulation: int
    per_epoch: int
    epochs: int

    @property
    def global_batch(self) -> int:
        """Images of one optimizer update."""
        return self.batch_size * self.world * self.accumulation

    @property
    def total(self) -> int:
        """Optimizer updates of the whole run."""
        return self.per_epoch * self.epochs

    @property
    def scale(self) -> float:
        """What learning rates per 512 images are multiplied with."""
        return self.global_batch / IMAGES_PER_RATE


def plan_run(cfg: DictConfig, trainer: lightning.Trainer, data: Any, world: int | None = None) -> RunPlan:
    """The run's arithmetic on the trainer's devices, or on `world` others; the trainer is told of it.

    ConfigError for a global batch that cannot be made here, where not a single update fits into an epoch, and for
    durations that do not fit.
    """
    world = trainer.world_size if world is None else world
    accumulation = trainer.accumulate_grad_batches = accumulated(
        cfg.global_batch, data.batch_size, world, trainer.accumulate_grad_batches
    )
    per_epoch = data.updates_per_epoch(world, accumulation, trainer.limit_train_batches)
    if per_epoch < 1:
        raise ConfigError(f"trainer.limit_train_batches={trainer.limit_train_batches} leaves no update in an epoch")
    plan = RunPlan(data.batch_size, world, accumulation, per_epoch, run_epochs(cfg.duration, per_epoch=per_epoch))
    lengths = {"per_epoch": per_epoch, "total": plan.total}
    trainer.fit_loop.max_epochs = plan.epochs
    trainer.check_val_every_n_epoch = to_epochs(cfg.validate_every, key="validate_every", **lengths)
    log_every = to_updates(cfg.log_every, key="log_every", **lengths)
    trainer.log_every_n_steps = log_every  # type: ignore[attr-defined]  # its logger connector made it
    return plan


def accumulated(global_batch: int | None, batch_size: int, world: int, given: int) -> int:
    """Micro-batches of one update: what `global_batch` needs on `world` ranks, or `given` where that is null.

    ConfigError where it cannot be divided so, naming the batch sizes with which it can.
    """
    if global_batch is None:
        return given
    whole("global_batch", global_batch, 1)
    if given != 1:
        raise ConfigError(
            f"global_batch={global_batch} says how much is accumulated: leave out "
            f"trainer.accumulate_grad_batches={given}"
        )
    if global_batch % world:
        raise ConfigError(
            f"global_batch={global_batch} cannot be divided among {world} ranks: use a number of devices that divides "
            f"it, or another global_batch (learning rates scale with it)"
        )
    share = global_batch // world
    if share % batch_size:
        sizes = [size for size in range(1, share + 1) if share % size == 0]
        below = [size for size in sizes if size < batch_size][-1:]
        above = [size for size in sizes if size > batch_size][:1]
        fitting = " or ".join(str(size) for size in below + above)
        raise ConfigError(
            f"global_batch={global_batch} is {share} images on each of {world} ranks, which data.batch_size="
            f"{batch_size} does not divide: set data.batch_size to {fitting}"
        )
    return share // batch_size

"""Learning rates as a function of the update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.scheduler import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler

from iwin.durations import to_updates
from iwin.errors import ConfigError, number


@dataclass(frozen=True)
class Cosine:
    """Linear from `warmup_lr` over `warmup`, then half a cosine down to `min_lr` at the end of the run.

    The warm-up is a prefix: the cosine spans what is left. Update n, from 0, uses the schedule at n.
    Both rates are per 512 images of global batch, as the optimizer's is.
    """

    warmup: str
    warmup_lr: float
    min_lr: float

    def __post_init__(self) -> None:
        for key in ("warmup_lr", "min_lr"):
            number(f"schedule.{key}", getattr(self, key), 0)

    def warmup_updates(self, *, per_epoch: int, total: int) -> int:
        """ConfigError where the warm-up is not shorter than the run."""
        updates = to_updates(self.warmup, per_epoch=per_epoch, total=total, key="schedule.warmup")
        if updates >= total:
            raise ConfigError(
                f"schedule.warmup={self.warmup} is {updates} updates and the run has {total}: "
                f"shorten it (schedule.warmup=5%) or train longer (duration)"
            )
        return updates

    def build(self, optimizer: torch.optim.Optimizer, *, per_epoch: int, total: int, scale: float) -> Scheduler:
        """timm's scheduler over `total` updates; `step_update(n)` sets the rates that update n uses."""
        warmup = self.warmup_updates(per_epoch=per_epoch, total=total)
        return CosineLRScheduler(
            optimizer,
            t_initial=total - warmup,
            lr_min=self.min_lr * scale,
            warmup_t=warmup,
            warmup_lr_init=self.warmup_lr * scale,
            warmup_prefix=True,
            t_in_epochs=False,
        )

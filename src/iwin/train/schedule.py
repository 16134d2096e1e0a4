"""Learning rates as a function of the update: a linear warm-up, and then one of several shapes.

The warm-up is a prefix: the shape spans what is left. Update n, from 0, uses the schedule at n. All rates are per 512
images of global batch, as the optimizer's is; `scale` is what they are multiplied with (RunPlan.scale).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from timm.scheduler import CosineLRScheduler, StepLRScheduler, WSDLRScheduler
from timm.scheduler.scheduler import Scheduler

from iwin.durations import parse, to_updates
from iwin.errors import ConfigError, number


@dataclass(frozen=True)
class Schedule(ABC):
    """Linear from `warmup_lr` over `warmup`, a duration, up to the optimizer's rate; then what a subclass does.

    per_epoch and total, below, are optimizer updates: of an epoch, and of the whole run.
    """

    warmup: str
    warmup_lr: float

    def __post_init__(self) -> None:
        parse(self.warmup, "schedule.warmup")
        number("schedule.warmup_lr", self.warmup_lr, 0)

    def warmup_updates(self, *, per_epoch: int, total: int) -> int:
        """ConfigError where the warm-up is not shorter than the run."""
        updates = to_updates(self.warmup, per_epoch=per_epoch, total=total, key="schedule.warmup")
        if updates >= total:
            raise ConfigError(
                f"schedule.warmup={self.warmup} is {updates} updates and the run has {total}: "
                f"shorten it (schedule.warmup=5%) or train longer (duration)"
            )
        return updates

    def check(self, *, per_epoch: int, total: int) -> None:
        """ConfigError where the durations do not fit the run."""
        self.warmup_updates(per_epoch=per_epoch, total=total)

    @abstractmethod
    def build(self, optimizer: torch.optim.Optimizer, *, per_epoch: int, total: int, scale: float) -> Scheduler:
        """timm's scheduler over `total` updates; `step_update(n)` sets the rates that update n uses."""

    @abstractmethod
    def shape(self, *, per_epoch: int, total: int, scale: float) -> str:
        """What follows the warm-up, in words with the numbers in force."""

    def describe(self, *, per_epoch: int, total: int, scale: float) -> str:
        """All of it, in words with the numbers in force."""
        updates = self.warmup_updates(per_epoch=per_epoch, total=total)
        rise = f"{updates:,} updates up from {self.warmup_lr * scale:.3g}" if updates else "no warm-up"
        return f"{rise}, {self.shape(per_epoch=per_epoch, total=total, scale=scale)}"


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine down to `min_lr` at the end of the run."""

    min_lr: float

    def __post_init__(self) -> None:
        super().__post_init__()
        number("schedule.min_lr", self.min_lr, 0)

    def build(self, optimizer: torch.optim.Optimizer, *, per_epoch: int, total: int, scale: float) -> Scheduler:
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

    def shape(self, *, per_epoch: int, total: int, scale: float) -> str:
        return f"cosine down to {self.min_lr * scale:.3g}"


@dataclass(frozen=True)
class Constant(Schedule):
    """The optimizer's rate to the end."""

    def build(self, optimizer: torch.optim.Optimizer, *, per_epoch: int, total: int, scale: float) -> Scheduler:
        # timm has no class of this name; a step of factor 1 is one.
        return StepLRScheduler(
            optimizer,
            decay_t=total,
            warmup_t=self.warmup_updates(per_epoch=per_epoch, total=total),
            warmup_lr_init=self.warmup_lr * scale,
            t_in_epochs=False,
        )

    def shape(self, *, per_epoch: int, total: int, scale: float) -> str:
        return "then constant"


@dataclass(frozen=True)
class Step(Schedule):
    """Times `factor` after every `every`, a duration, counted from the end of the warm-up."""

    every: str
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        parse(self.every, "schedule.every")
        if not 0 < number("schedule.factor", self.factor, 0) <= 1:
            raise ConfigError(f"schedule.factor must be above 0 and at most 1, got {self.factor}")

    def every_updates(self, *, per_epoch: int, total: int) -> int:
        """ConfigError where it is less than an update."""
        updates = to_updates(self.every, per_epoch=per_epoch, total=total, key="schedule.every")
        if updates < 1:
            raise ConfigError(f"schedule.every={self.every} is less than an update: the rate would fall without end")
        return updates

    def check(self, *, per_epoch: int, total: int) -> None:
        super().check(per_epoch=per_epoch, total=total)
        self.every_updates(per_epoch=per_epoch, total=total)

    def build(self, optimizer: torch.optim.Optimizer, *, per_epoch: int, total: int, scale: float) -> Scheduler:
        return StepLRScheduler(
            optimizer,
            decay_t=self.every_updates(per_epoch=per_epoch, total=total),
            decay_rate=self.factor,
            warmup_t=self.warmup_updates(per_epoch=per_epoch, total=total),
            warmup_lr_init=self.warmup_lr * scale,
            warmup_prefix=True,
            t_in_epochs=False,
        )

    def shape(self, *, per_epoch: int, total: int, scale: float) -> str:
        return f"then x {self.factor:g} every {self.every_updates(per_epoch=per_epoch, total=total):,} updates"


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """Constant, and over the last `decay`, a duration, down to `min_lr` (Hu et al., arXiv 2404.06395).

    A share x of the decay done, 1 - sqrt(x) of the way down is left: of the shapes compared in arXiv 2405.18392
    (Haegele et al., Section 4) the one that ends best, ahead of the linear one.
    """

    decay: str
    min_lr: float

    def __post_init__(self) -> None:
        super().__post_init__()
        parse(self.decay, "schedule.decay")
        number("schedule.min_lr", self.min_lr, 0)

    def decay_updates(self, *, per_epoch: int, total: int) -> int:
        """At least one, where it is no duration of 0. ConfigError for that, and where it does not fit behind the
        warm-up."""
        left = total - self.warmup_updates(per_epoch=per_epoch, total=total)
        updates = to_updates(self.decay, per_epoch=per_epoch, total=total, key="schedule.decay")
        if parse(self.decay)[0] > 0:
            updates = max(1, updates)
        if not 1 <= updates <= left:
            raise ConfigError(
                f"schedule.decay={self.decay} is {updates} updates, and the warm-up leaves {left} of {total}: it must "
                f"be from 1 to {left}, as schedule.decay=20%"
            )
        return updates

    def check(self, *, per_epoch: int, total: int) -> None:
        self.decay_updates(per_epoch=per_epoch, total=total)

    def build(self, optimizer: torch.optim.Optimizer, *, per_epoch: int, total: int, scale: float) -> Scheduler:
        warmup = self.warmup_updates(per_epoch=per_epoch, total=total)
        return WSDLRScheduler(
            optimizer,
            t_initial=total - warmup,
            decay_t=self.decay_updates(per_epoch=per_epoch, total=total),
            lr_min=self.min_lr * scale,
            decay_fn="1-sqrt",
            warmup_t=warmup,
            warmup_lr_init=self.warmup_lr * scale,
            t_in_epochs=False,
        )

    def shape(self, *, per_epoch: int, total: int, scale: float) -> str:
        updates = self.decay_updates(per_epoch=per_epoch, total=total)
        return f"constant, in the last {updates:,} down to {self.min_lr * scale:.3g} as 1 - sqrt"

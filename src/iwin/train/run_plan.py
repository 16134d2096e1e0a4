"""The arithmetic of a run: global batch, updates, effective rates."""

from __future__ import annotations

from dataclasses import dataclass

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

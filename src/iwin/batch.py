"""The one thing that data hands to tasks."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Position(NamedTuple):
    """Where in a run a batch stands. Every random draw about a batch is a function of this.

    attempt: 0, and one more after each roll-back.
    epoch, step: the epoch and the global batch (one optimizer update) within it, from 0.
    micro: the micro-batch of that update on this rank, from 0 (gradient accumulation).
    """

    attempt: int
    epoch: int
    step: int
    micro: int


class BadSample(NamedTuple):
    """A training image that could not be decoded, by its key, and why."""

    key: str
    reason: str


class Batch(NamedTuple):
    """One micro-batch of one rank. A NamedTuple, so that it moves to a device and pins as it is.

    images: (B, 3, H, W), channels last in memory. uint8 as the workers make it; float and normalised
        once it has passed the DataModule's `on_after_batch_transfer`.
    targets: (B,) int64 labels, or (B, classes) float32 class distributions after mixup.
    indices: (B,) int64 positions of the samples in their data set.
    position: where in the run the batch stands.
    bad: the samples that were to be in this batch, and that others stand in for.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    position: Position
    bad: tuple[BadSample, ...] = ()

"""What every data set of labelled images is to the rest: bytes by index, and whole batches by ticket."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from iwin.batch import BadSample, Batch, Position
from iwin.data.encoded import Encoded, encoded
from iwin.data.sampler import Ticket
from iwin.errors import DataError, ImageError
from iwin.runtime import position_seed, seed_at

Transform = Callable[[Encoded], np.ndarray]
# Replacements that are tried for one damaged image. More in a row are no accident.
REPLACEMENTS = 10


class SampleKey:
    """The key of a sample, looked up only where it is told: a look-up reads a file."""

    __slots__ = ("dataset", "index")

    def __init__(self, dataset: ImageDataset, index: int) -> None:
        self.dataset = dataset
        self.index = index

    def __str__(self) -> str:
        return self.dataset.key(self.index)


class ImageDataset(Dataset[Batch], ABC):
    """A map-style data set: `read`, `key` and `describe` by the kind of storage, the rest here.

    classes: their names by label, or None where the storage does not tell.
    transform: an encoded image -> (H, W, 3) uint8, all of one size. later: those that take its place, each from an
        epoch on, in order. A worker finds the epoch in each ticket, and so never uses one that is out of date.
    seed: of the run in training; each sample's draws are then a function of (seed, attempt, epoch, index), and of
        the repetition where it is one, so that they do not depend on which worker makes it. None in evaluation,
        where nothing is drawn.

    A DataLoader hands `__getitems__` the ticket of its batch sampler and gets a whole Batch, so that collating
    is one copy a sample into its final place.

    An image that cannot be decoded is an error in evaluation. In training another sample stands in for it, chosen
    by the same position as the draws, and the batch tells (Batch.bad); who trains decides how many are too many.
    """

    classes: list[str] | None
    later: Sequence[tuple[int, Transform]] = ()

    def __init__(self, transform: Transform, seed: int | None) -> None:
        self.transform = transform
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @property
    @abstractmethod
    def labels(self) -> np.ndarray:
        """The labels of all samples, (N,) int32; it may be put together at each call."""

    @abstractmethod
    def label(self, index: int) -> int:
        """The label of image `index`."""

    def class_counts(self) -> np.ndarray:
        """How many samples each label has, int64, as long as the largest label needs."""
        return np.bincount(self.labels)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`; DataError where they cannot be read."""

    @abstractmethod
    def key(self, index: int) -> str:
        """A name for image `index` by which a person finds it."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What pins this data set down in the provenance of a run: plain values, with hashes of its content."""

    def encoded(self, index: int) -> Encoded:
        """Image `index`. Raises ImageError with its key where it is none that is read here."""
        return encoded(self.read(index), SampleKey(self, index))

    def __getitems__(self, ticket: Ticket) -> Batch:
        """The batch that `ticket` asks for: images (B, 3, H, W) uint8, channels last; targets (B,) int64."""
        indices = ticket.indices.astype(np.int64)
        transform = self.transform_in(ticket.position.epoch)
        images_BHWC: np.ndarray | None = None
        bad: list[BadSample] = []
        for row in range(len(indices)):
            place = _place(ticket.position, int(indices[row]), int(ticket.repetitions[row]))
            pixels_HWC, indices[row] = self._made(transform, place, int(indices[row]), bad)
            if images_BHWC is None:
                images_BHWC = np.empty((len(indices), *pixels_HWC.shape), np.uint8)
            images_BHWC[row] = pixels_HWC
        assert images_BHWC is not None, "a sampler handed out an empty ticket"
        images_BCHW = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2)
        targets = torch.tensor([self.label(index) for index in indices.tolist()])
        return Batch(images_BCHW, targets, torch.from_numpy(indices), ticket.position, tuple(bad))

    def transform_in(self, epoch: int) -> Transform:
        """What makes the images of `epoch`."""
        begun = [transform for start, transform in self.later if start <= epoch]
        return begun[-1] if begun else self.transform

    def _made(
        self, transform: Transform, place: tuple[int, ...], index: int, bad: list[BadSample]
    ) -> tuple[np.ndarray, int]:
        """The pixels (H, W, 3) of sample `index`, or of one that stands in for it, and which one it is."""
        taken = index
        for attempt in range(REPLACEMENTS + 1):
            try:
                image = self.encoded(taken)
                if self.seed is not None:
                    # Just before the draws, and after what comes before them, so that nothing draws in between.
                    seed_at(self.seed, "augment", *place)
                return transform(image), taken
            except ImageError as error:
                if self.seed is None:
                    raise
                bad.append(BadSample(self.key(taken), str(error)))
                taken = position_seed(self.seed, "replacement", *place, attempt) % len(self)
        raise DataError(
            f"{REPLACEMENTS + 1} images drawn at random one after the other cannot be decoded: {bad[-1].reason} "
            "Look at the data set as a whole: iwin shards check --deep"
        )


def _place(position: Position, index: int, repetition: int) -> tuple[int, ...]:
    """What the draws of a sample are a function of, besides the seed. The first time it comes it has no number."""
    return (position.attempt, position.epoch, index, *([repetition] if repetition else []))

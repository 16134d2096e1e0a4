"""What every data set of labelled images is to the rest: bytes by index, and whole batches by ticket."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from iwin.batch import Batch
from iwin.data.decode import decode
from iwin.data.sampler import Ticket
from iwin.runtime import seed_at


class ImageDataset(Dataset[Batch], ABC):
    """A map-style data set: `read`, `key` and `describe` by the kind of storage, the rest here.

    labels: (N,) int32. classes: their names by label, or None where the storage does not tell.
    transform: RGB image -> (3, H, W) uint8 tensor, all of one size. seed: of the run where the transform draws
        at random; each sample's draws are then a function of (seed, attempt, epoch, index), so that they do not
        depend on which worker makes it. None where it does not draw.

    A DataLoader hands `__getitems__` the ticket of its batch sampler and gets a whole Batch, so that collating
    is one copy a sample into its final place.
    """

    labels: np.ndarray
    classes: list[str] | None

    def __init__(self, transform: Callable[[Image.Image], Tensor], seed: int | None) -> None:
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`; DataError where they cannot be read."""

    @abstractmethod
    def key(self, index: int) -> str:
        """A name for image `index` by which a person finds it."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What pins this data set down in the provenance of a run: plain values, with hashes of its content."""

    def image(self, index: int) -> Image.Image:
        """Image `index`, decoded, as RGB. Raises DataError with its key where it cannot be decoded."""
        return decode(self.read(index), self.key(index))

    def __getitems__(self, ticket: Ticket) -> Batch:
        """The batch that `ticket` asks for: images (B, 3, H, W) uint8, channels last; targets (B,) int64."""
        images: Tensor | None = None
        for row, index in enumerate(ticket.indices):
            image = self.image(int(index))
            if self.seed is not None:
                # Just before the draws, and after the decoding, so that nothing else can draw in between.
                seed_at(self.seed, "augment", ticket.position.attempt, ticket.position.epoch, int(index))
            pixels = self.transform(image)
            if images is None:
                shape = (len(ticket.indices), *pixels.shape)
                images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
            images[row] = pixels
        assert images is not None, "a sampler handed out an empty ticket"
        targets = torch.from_numpy(self.labels[ticket.indices].astype(np.int64))
        return Batch(images, targets, torch.from_numpy(ticket.indices.astype(np.int64)), ticket.position)

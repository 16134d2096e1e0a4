"""An image as it lies in its file: its size is known at once, and of its pixels only what is asked for is decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from timm.data.transforms import str_to_pil_interp

from iwin.data.decode import MAX_PIXELS, decode, too_large
from iwin.data.jpeg import JpegHeader, plain_header, upper_rows

# torch's kernels for uint8, channels last, which follow Pillow's fixed-point resampling.
ANTIALIASED = {
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa,
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa,
}


class Box(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


class Encoded(ABC):
    """An image that is not decoded yet. size: (width, height) in pixels, upright."""

    size: tuple[int, int]

    @abstractmethod
    def resized(self, box: Box | None, size_HW: tuple[int, int], interpolation: str) -> np.ndarray:
        """The part `box`, or the whole, resized with antialiasing: (H, W, 3) uint8 RGB, an array of its own.

        interpolation: nearest, bilinear, bicubic or lanczos. Raises ImageError where the image is damaged.
        """


def encoded(data: bytes, key: object, max_pixels: int = MAX_PIXELS) -> Encoded:
    """The image in `data`, the bytes of a JPEG, PNG or WebP file; the string of `key` names it in errors.

    Raises:
        ImageError: as iwin.data.decode.decode. A damage behind the header may show only in `resized`.
    """
    header = plain_header(data)
    if header is None:
        return PillowImage(data, key, max_pixels)
    width, height = header.size
    if width * height > max_pixels:
        raise too_large(key, f"{width} x {height}", max_pixels)
    return JpegImage(data, key, header)


class PillowImage(Encoded):
    """Any image that Pillow knows, decoded as a whole."""

    def __init__(self, data: bytes, key: object, max_pixels: int = MAX_PIXELS) -> None:
        self.image = decode(data, key, max_pixels)
        self.size = self.image.size

    def resized(self, box: Box | None, size_HW: tuple[int, int], interpolation: str) -> np.ndarray:
        """See Encoded."""
        part = self.image
        if box is not None:
            part = part.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        return np.array(part.resize(size_HW[::-1], str_to_pil_interp(interpolation)))


class JpegImage(Encoded):
    """A plain JPEG: decoded down to the last row that is needed, and resized without Pillow.

    The pixels before resizing are Pillow's. Resized, a few differ from Pillow's by one grey level, as the weights
    are rounded to fewer bits; and in boxes taller than wide about a fifth of them, by more beside the sharpest
    edges, as Pillow resizes the columns of these first (`iwin bench data` prints the means).
    """

    def __init__(self, data: bytes, key: object, header: JpegHeader) -> None:
        self.data = data
        self.key = key
        self.header = header
        self.size = header.size

    def resized(self, box: Box | None, size_HW: tuple[int, int], interpolation: str) -> np.ndarray:
        """See Encoded."""
        kernel = ANTIALIASED.get(interpolation)
        if kernel is None:
            return self._by_pillow.resized(box, size_HW, interpolation)
        box = box or Box(0, 0, *self.size)
        try:
            pixels_HWC = upper_rows(self.data, self.header, box.top + box.height)
        except ValueError:  # Pillow goes on where simplejpeg gives up, or says what is wrong
            return self._by_pillow.resized(box, size_HW, interpolation)
        part_HWC = pixels_HWC[box.top : box.top + box.height, box.left : box.left + box.width]
        part_1CHW = torch.from_numpy(np.ascontiguousarray(part_HWC))[None].permute(0, 3, 1, 2)
        return kernel(part_1CHW, size_HW, False)[0].permute(1, 2, 0).numpy()

    @cached_property
    def _by_pillow(self) -> PillowImage:
        return PillowImage(self.data, self.key)

"""Encoded bytes -> an RGB image, whatever the file holds."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from iwin.errors import ImageError

# Only these decoders are ever run: a data set is foreign input, and Pillow knows dozens of formats.
FORMATS = ("JPEG", "PNG", "WEBP")
# 8,192 x 8,192: 200 MB decoded, more than any image of ImageNet, and less than what ends a worker.
MAX_PIXELS = 2**26
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def decode(data: bytes, key: object, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a JPEG, PNG or WebP into an upright RGB image with 8 bits a channel.

    The EXIF orientation is applied. 16-bit greys are scaled (not clipped) to 8; CMYK and palettes are converted;
    what is transparent shows white, as colours under full transparency are arbitrary. `key` names the image in
    errors, as the string that it then gives.

    Raises:
        ImageError: with `key`, where the bytes are no image of these formats, are damaged or cut short, hold
            floating-point pixels, or have more than `max_pixels` pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise too_large(key, f"{width} x {height}", max_pixels)
            return _rgb(ImageOps.exif_transpose(image), key)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise too_large(key, "too many", max_pixels) from error
    except UnidentifiedImageError as error:
        names = " or ".join(", ".join(FORMATS).rsplit(", ", 1))
        raise ImageError(f"image {key} is no {names} file. Convert it, or write the data set without it.") from error
    except BROKEN as error:
        raise ImageError(
            f"image {key} cannot be decoded ({error}). Replace it, or write the data set without it."
        ) from error


def too_large(key: object, size: str, max_pixels: int) -> ImageError:
    """The error for an image that is not decoded because of its size."""
    return ImageError(f"image {key} has {size} pixels; at most {max_pixels} are decoded. Make it smaller.")


def _rgb(image: Image.Image, key: object) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I"):
        # "I;16" and "I" are 16-bit greys; Pillow's own conversion would clip them at 255 to almost white.
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError(f"image {key} has floating-point pixels, whose range is not known. Convert it to 8 bits.")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")
    return image.convert("RGB")

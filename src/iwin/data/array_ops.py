"""timm's image operations on (H, W, 3) uint8 RGB arrays, for policy.py: what Pillow gives, several times faster.

Each takes an image and the arguments that timm's function of the same name takes, and returns an image of the
same shape; the image is never changed, but may be returned as it is. How far they are from timm's on Pillow, in
grey levels: the mean over all values, and the largest. The photos are scikit-learn's at 224 x 224, bicubic; the
magnitudes those that rand-m9-mstd0.5-inc1 draws (GaussianBlur: rand-m9-mstd0.5-t3a; the other two below it: 3a).

    AutoContrast             0        0
    Equalize                 0        0
    Invert                   0        0
    PosterizeIncreasing      0        0
    SolarizeIncreasing       0        0
    SolarizeAdd              0        0
    ContrastIncreasing       0        0
    BrightnessIncreasing     0        0
    ColorIncreasing          0.0001   1
    SharpnessIncreasing      0.0001   1
    ShearX                   0.002    1
    ShearY                   0.002    1
    TranslateXRel            0.002    1
    TranslateYRel            0.002    1
    Rotate                   0.45     16
    GaussianBlur             0.003    1
    GaussianBlurRand         0.0001   1
    Desaturate               0        0

Only with Rotate is it more than rounding: Pillow's cubic kernel has the coefficient -1, OpenCV's has -0.75 and
steps of 1/32 pixel. Bilinear rotation is as near as the others. With nearest, 1 pixel in 100 of a slanted image may
be its neighbour, as Pillow adds up whole steps of 1/65536 pixel there.
"""

from __future__ import annotations

import functools
import itertools
import math
import random

import cv2
import numpy as np
from cv2.typing import MatLike
from PIL import Image

# The processes that load images are as many as the cores: threads of OpenCV would only be in their way.
cv2.setNumThreads(0)

# Pillow cuts fractions off, OpenCV rounds to the nearest. With this added it cuts them off too; the small part is
# more than what float32 loses, so that a whole number stays what it is.
TRUNCATE = -0.5 + 2**-12
# Pillow's RGB to L: whole numbers over 2^16, with a half to round. All sums are below 2^24, so float32 is exact.
GREY = np.array([[19595, 38470, 7471, 32768]], np.float32) / 65536
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
RAMP = np.arange(256)
RAMP_IMAGE = Image.frombytes("L", (256, 1), bytes(range(256)))
INTERPOLATIONS = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


# -- each value by itself --


def invert(image: np.ndarray) -> np.ndarray:
    return np.bitwise_not(image)


def posterize(image: np.ndarray, bits_to_keep: int) -> np.ndarray:
    return image if bits_to_keep >= 8 else np.bitwise_and(image, np.uint8(256 - 2 ** (8 - bits_to_keep)))


def solarize(image: np.ndarray, thresh: int) -> np.ndarray:
    """Values from `thresh` on are inverted."""
    return np.bitwise_xor(image, cv2.threshold(image, thresh - 1, 255, cv2.THRESH_BINARY)[1])


def solarize_add(image: np.ndarray, add: int) -> np.ndarray:
    """`add` is added to values below 128."""
    return cv2.add(image, cv2.threshold(image, 127, add, cv2.THRESH_BINARY_INV)[1])


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Each channel stretched to 0..255."""
    tables = np.empty((256, 3), np.uint8)
    for channel, values in enumerate(cv2.split(image)):
        low, high, _, _ = cv2.minMaxLoc(values)
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        tables[:, channel] = np.clip(RAMP * scale + offset, 0, 255)
    return cv2.LUT(image, tables.reshape(1, 256, 3))


def equalize(image: np.ndarray) -> np.ndarray:
    """Each channel's values spread so that its histogram is flat."""
    tables = np.empty((256, 3), np.uint8)
    for channel in range(3):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        sums = counts.cumsum()
        last = counts[np.flatnonzero(counts)[-1]]
        step = int(sums[-1] - last) // 255
        tables[:, channel] = np.minimum((step // 2 + sums - counts) // step, 255) if step else RAMP
    return cv2.LUT(image, tables.reshape(1, 256, 3))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.LUT(image, _blend_table(0, factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blended with the mean of the grey image."""
    grey = _grey(image)
    return cv2.LUT(image, _blend_table(int(cv2.sumElems(grey)[0] / grey.size + 0.5), factor))


def _blend_table(value: int, factor: float) -> np.ndarray:
    """What Pillow's blend with an image of one value makes of 0..255: (1, 256)."""
    return np.asarray(Image.blend(Image.new("L", (256, 1), value), RAMP_IMAGE, factor))


# -- blends with an image made from it --


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Blended with the grey image."""
    grey = cv2.cvtColor(_grey(image), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(grey, 1 - factor, image, factor, TRUNCATE)


def desaturate(image: np.ndarray, factor: float) -> np.ndarray:
    return color(image, min(1.0, max(0.0, 1.0 - factor)))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blended with the smoothed image; the pixels at the border stay as they are."""
    smooth = cv2.filter2D(image, -1, SMOOTH)
    smooth[0], smooth[-1], smooth[:, 0], smooth[:, -1] = image[0], image[-1], image[:, 0], image[:, -1]
    return cv2.addWeighted(smooth, 1 - factor, image, factor, TRUNCATE)


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.transform(image.astype(np.float32), GREY).astype(np.uint8)


# -- blur --


def gaussian_blur(image: np.ndarray, factor: float) -> np.ndarray:
    """Pillow's: in place of a Gaussian of deviation `factor`, in pixels, three box filters a direction.

    The box reaches a fraction into the pixels at its ends, so that its variance is a third of the Gaussian's.
    """
    variance = factor * factor / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.array([part, *[1.0] * (2 * whole + 1), part], np.float32) / (2 * whole + 1 + 2 * part)
    for kernel in (box[None], box[:, None]):
        for _ in range(3):
            image = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return image


def gaussian_blur_rand(image: np.ndarray, factor: float) -> np.ndarray:
    """The deviation is drawn, from Python's generator as timm does it."""
    return gaussian_blur(image, random.uniform(0.1, 2.0 * factor))


# -- moves: fill is the colour of what comes from outside the image, interpolation a key of INTERPOLATIONS --


def shear_x(image: np.ndarray, factor: float, fill: tuple[int, int, int], interpolation: str) -> np.ndarray:
    """Rows slide by `factor` times their distance from the top."""
    return _slide(image, factor * (np.arange(image.shape[0]) + 0.5), fill, interpolation)


def shear_y(image: np.ndarray, factor: float, fill: tuple[int, int, int], interpolation: str) -> np.ndarray:
    return cv2.transpose(shear_x(cv2.transpose(image), factor, fill, interpolation))


def translate_x_abs(image: np.ndarray, pixels: float, fill: tuple[int, int, int], interpolation: str) -> np.ndarray:
    return _slide(image, np.full(image.shape[0], pixels), fill, interpolation)


def translate_y_abs(image: np.ndarray, pixels: float, fill: tuple[int, int, int], interpolation: str) -> np.ndarray:
    return cv2.transpose(translate_x_abs(cv2.transpose(image), pixels, fill, interpolation))


def translate_x_rel(image: np.ndarray, pct: float, fill: tuple[int, int, int], interpolation: str) -> np.ndarray:
    return translate_x_abs(image, pct * image.shape[1], fill, interpolation)


def translate_y_rel(image: np.ndarray, pct: float, fill: tuple[int, int, int], interpolation: str) -> np.ndarray:
    return translate_y_abs(image, pct * image.shape[0], fill, interpolation)


def rotate(image: np.ndarray, degrees: float, fill: tuple[int, int, int], interpolation: str) -> np.ndarray:
    """Counter-clockwise about the centre."""
    height, width = image.shape[:2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # From a pixel of the result to one of the image. OpenCV counts from the centre of the first pixel.
    x, y = (width - 1) / 2, (height - 1) / 2
    matrix = np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])
    flags = cv2.WARP_INVERSE_MAP | INTERPOLATIONS[interpolation]
    if interpolation == "nearest":
        turned = cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    else:
        # In float32: what OpenCV does on uint8 is slower, and in coarser steps.
        floats = image.astype(np.float32)
        turned = _truncated(
            cv2.warpAffine(floats, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        )
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST
    outside = cv2.warpAffine(_plain(height, width, 0), matrix, (width, height), flags=flags, borderValue=1)
    return cv2.copyTo(_plain(height, width, fill), outside, turned)


def _slide(image: np.ndarray, shift_H: np.ndarray, fill: tuple[int, int, int], interpolation: str) -> np.ndarray:
    """Row y shows, at x, what the image has at x + shift_H[y], in pixels.

    Pillow's interpolation of a row whose shift has the fraction d is a sum of 1, 2 or 4 neighbours with weights
    that depend on d alone. Neighbouring rows with the same whole part of the shift are copied at once.
    """
    height, width = image.shape[:2]
    first_H, weights_HK = _weights(shift_H, interpolation)
    count = weights_HK.shape[1]
    left, right = max(0, -int(first_H.min())), max(0, int(first_H.max()) + count - 1)
    padded = cv2.copyMakeBorder(image, 0, 0, left, right, cv2.BORDER_REPLICATE).reshape(height, -1)
    reach = 3 * (width + count - 1)
    rows = np.empty((height, reach), np.uint8 if count == 1 else np.float32)
    cuts = [0, *(np.flatnonzero(np.diff(first_H)) + 1).tolist(), height]
    for top, bottom in itertools.pairwise(cuts):
        start = 3 * (left + int(first_H[top]))
        rows[top:bottom] = padded[top:bottom, start : start + reach]
    if count > 1:
        shape, strides = (height, count, 3 * width), (rows.strides[0], 3 * rows.itemsize, rows.itemsize)
        neighbours = np.lib.stride_tricks.as_strided(rows, shape, strides, writeable=False)
        rows = _truncated(np.einsum("hk,hkx->hx", weights_HK, neighbours))
    columns = np.arange(width, dtype=np.int32)
    begin = np.ceil(-0.5 - shift_H).astype(np.int32)[:, None]
    outside = (columns < begin) | (columns >= begin + width)
    return cv2.copyTo(_plain(height, width, fill), outside.view(np.uint8), rows.reshape(image.shape))


def _weights(shift_H: np.ndarray, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """The first neighbour's distance in columns (H,), and the weights of the neighbours (H, 1, 2 or 4)."""
    if interpolation == "nearest":
        return np.floor(shift_H + 0.5).astype(np.int64), np.ones((len(shift_H), 1), np.float32)
    whole = np.floor(shift_H).astype(np.int64)
    d = shift_H - whole
    if interpolation == "bilinear":
        return whole, np.stack([1 - d, d], 1).astype(np.float32)
    cubic = [d * (d * (2 - d) - 1), 1 + d * d * (d - 2), d * (1 + d * (1 - d)), d * d * (d - 1)]
    return whole - 1, np.stack(cubic, 1).astype(np.float32)


def _truncated(values: MatLike) -> np.ndarray:
    """float32 -> uint8: fractions cut off, held to 0..255."""
    return cv2.addWeighted(values, 1, values, 0, TRUNCATE, dtype=cv2.CV_8U)


@functools.lru_cache(maxsize=16)
def _plain(height: int, width: int, value: int | tuple[int, int, int]) -> np.ndarray:
    """An image of one colour, or a mask of one value; not to be written to."""
    shape = (height, width) if isinstance(value, int) else (height, width, 3)
    plain = np.full(shape, value, np.uint8)
    plain.flags.writeable = False
    return plain

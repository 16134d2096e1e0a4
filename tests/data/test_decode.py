from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from tiny_images import encoded

from iwin.data.decode import decode
from iwin.errors import DataError

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def pixels(data: bytes) -> np.ndarray:
    image = decode(data, "k")
    assert image.mode == "RGB"
    return np.asarray(image)


def test_grey_becomes_three_equal_channels() -> None:
    assert np.array_equal(pixels(encoded(Image.fromarray(RAMP))), np.stack([RAMP] * 3, -1))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_rgb_is_exact(kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(pixels(encoded(Image.fromarray(image), kind, lossless=True)), image)


def test_16_bit_greys_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 25_700, 65_535]], dtype=np.uint16)
    assert pixels(encoded(Image.fromarray(values)))[0, :, 0].tolist() == [0, 1, 100, 255]


def test_a_palette_gives_its_colours() -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    assert pixels(encoded(image)).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert pixels(encoded(image, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_black_and_white() -> None:
    image = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert pixels(encoded(image))[0, :, 0].tolist() == [0, 255]


def test_what_is_transparent_shows_white() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)
    assert pixels(encoded(Image.fromarray(rgba))).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    grey = np.array([[[10, 255], [10, 0]]], dtype=np.uint8)
    assert pixels(encoded(Image.fromarray(grey, "LA")))[0, :, 0].tolist() == [10, 255]


def test_a_transparent_colour_shows_white() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    assert pixels(encoded(image, transparency=(4, 5, 6))).tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_cmyk_is_converted() -> None:
    cmyk = np.zeros((16, 16, 4), dtype=np.uint8)
    cmyk[..., 1:3] = 255  # magenta and yellow: red
    red, green, blue = pixels(encoded(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=95)).reshape(-1, 3).mean(0)
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(orientation: int) -> None:
    upright = Image.fromarray(np.dstack([RAMP, RAMP.T, RAMP])[:, :5])
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Transpose that undoes what a viewer does
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels(encoded(stored, exif=exif.tobytes())), np.asarray(upright))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_short_is_an_error_with_its_key(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for size in (0, 1, 10, 100, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(DataError, match=r"image some-key (cannot be decoded|is no JPEG)"):
            decode(data[:size], "some-key")


def test_other_formats_are_not_decoded() -> None:
    with pytest.raises(DataError, match="image k is no JPEG, PNG or WEBP file"):
        decode(encoded(Image.fromarray(RAMP), "TIFF"), "k")


def test_an_image_of_too_many_pixels_is_refused() -> None:
    data = encoded(Image.fromarray(RAMP))
    decode(data, "k", max_pixels=64)
    with pytest.raises(DataError, match=r"image k has 8 x 8 pixels; at most 63"):
        decode(data, "k", max_pixels=63)


def test_an_image_that_claims_a_billion_pixels_is_refused() -> None:
    header = struct.pack(">IIBBBBB", 40_000, 25_000, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    with pytest.raises(DataError, match="image bomb has"):
        decode(data, "bomb")

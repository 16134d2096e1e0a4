from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from test_jpeg import OTHER, PLAIN, jpeg, photo

from iwin.data.decode import decode
from iwin.data.encoded import Box, JpegImage, PillowImage, encoded
from iwin.errors import ImageError

BOXES = [None, Box(0, 0, 203, 149), Box(30, 20, 100, 60), Box(3, 100, 200, 49), Box(100, 0, 17, 149), Box(50, 50, 4, 4)]
FILTERS = {"bilinear": 2, "bicubic": 3, "nearest": 0, "lanczos": 1}


def by_pillow(data: bytes, box: Box | None, size: tuple[int, int], interpolation: str) -> np.ndarray:
    image = decode(data, "a key")
    if box is not None:
        image = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return np.asarray(image.resize(size[::-1], FILTERS[interpolation]))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [(32, 32), (64, 48), (224, 224)])
def test_a_jpeg_is_resized_as_by_pillow(box: Box | None, size: tuple[int, int], interpolation: str) -> None:
    image = encoded(jpeg(), "a key")
    assert isinstance(image, JpegImage)
    assert image.size == (203, 149)
    made = image.resized(box, size, interpolation)
    assert made.shape == (*size, 3)
    assert made.dtype == np.uint8
    assert made.flags.c_contiguous
    difference = np.abs(made.astype(int) - by_pillow(jpeg(), box, size, interpolation))
    if box is not None and box.width < size[1] and box.height > size[0]:  # enlarged one way and reduced the other
        assert difference.mean() <= 0.3
    else:
        assert difference.max() <= 2
        assert difference.mean() <= 0.01


def test_photographs_differ_from_pillow_by_less_than_a_tenth_of_a_grey_level() -> None:
    for picture in load_sample_images().images:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=90)
        for box in (None, Box(100, 50, 300, 280)):
            made = encoded(file.getvalue(), "a key").resized(box, (224, 224), "bicubic")
            theirs = by_pillow(file.getvalue(), box, (224, 224), "bicubic")
            assert np.abs(made.astype(int) - theirs).mean() < 0.02


@pytest.mark.parametrize("interpolation", ["nearest", "lanczos"])
def test_filters_that_pillow_alone_has_are_pillows(interpolation: str) -> None:
    made = encoded(jpeg(), "a key").resized(BOXES[2], (40, 50), interpolation)
    assert np.array_equal(made, by_pillow(jpeg(), BOXES[2], (40, 50), interpolation))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_other_formats_are_pillows(format: str) -> None:
    file = io.BytesIO()
    photo(60, 40).save(file, format)
    image = encoded(file.getvalue(), "a key")
    assert isinstance(image, PillowImage)
    for box in (None, Box(5, 6, 30, 20)):
        assert np.array_equal(
            image.resized(box, (16, 24), "bicubic"), by_pillow(file.getvalue(), box, (16, 24), "bicubic")
        )


def test_a_jpeg_that_is_not_plain_is_read_upright_and_in_its_colours() -> None:
    assert encoded(OTHER["turned by Exif"], "a key").size == (149, 203)
    for name in ("turned by Exif", "turned by XMP", "CMYK", "RGB kept as it is"):
        made = encoded(OTHER[name], "a key").resized(None, (50, 40), "bicubic")
        assert np.array_equal(made, by_pillow(OTHER[name], None, (50, 40), "bicubic"))


@pytest.mark.parametrize("name", ["cut short", "cut in its header", "nothing", "no JPEG"])
def test_a_damaged_image_is_refused_by_its_key(name: str) -> None:
    with pytest.raises(ImageError, match="a key"):
        encoded(OTHER[name], "a key").resized(None, (16, 16), "bicubic")


def test_what_simplejpeg_refuses_and_pillow_refuses_too_is_refused_by_its_key() -> None:
    data = PLAIN["4:2:0"]
    huffman = data.index(b"\xff\xc4")
    broken = data[: huffman + 5] + b"\xff" * 16 + data[huffman + 21 :]
    image = encoded(broken, "a key")
    assert isinstance(image, JpegImage)
    with pytest.raises(ImageError, match="a key cannot be decoded"):
        image.resized(None, (16, 16), "bicubic")


def test_the_cap_on_pixels_holds_before_decoding() -> None:
    with pytest.raises(ImageError, match="a key has 203 x 149 pixels; at most 1000"):
        encoded(jpeg(), "a key", max_pixels=1000)
    with pytest.raises(ImageError, match="a key has 203 x 149 pixels; at most 1000"):
        encoded(OTHER["CMYK"], "a key", max_pixels=1000)

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from tiny_images import encoded
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from iwin.data.decode import decode
from iwin.data.shrink import Shrink
from iwin.errors import ImageError

UPRIGHT_OF_6 = 274, 6  # the EXIF tag of the orientation, and: turn a quarter clockwise to see it upright


def smooth(width: int, height: int) -> Image.Image:
    """A colour image without hard edges, so that resizing and encoding change little."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [127 + 120 * np.sin(x / 17 + k) * np.cos(y / 23 - k) for k in range(3)]
    return Image.fromarray(np.stack(channels, 2).astype(np.uint8))


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (40, 40), (12, 300)])
def test_an_image_that_is_small_enough_keeps_its_bytes(size: tuple[int, int]) -> None:
    data = encoded(smooth(*size), "JPEG")
    assert Shrink(40, 95)(data, "a") is data
    assert Shrink(41, 95)(data, "a") is data


@pytest.mark.parametrize(
    ("size", "expected"), [((200, 120), (66, 40)), ((120, 200), (40, 66)), ((90, 90), (40, 40)), ((41, 41), (40, 40))]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_short_side_is_made_smaller_in_the_same_format(size, expected, kind: str) -> None:
    image = smooth(*size)
    small = opened(Shrink(40, 95)(encoded(image, kind), "a"))
    assert (small.size, small.format) == (expected, kind)
    reference = image.resize(expected, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(small.convert("RGB"), float) - np.asarray(reference, float)).mean() < 2.5


def test_a_png_holds_the_pixels_that_evaluation_resizes_to() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (123, 211, 3), dtype=np.uint8))
    resize = transforms.Resize(64, InterpolationMode.BICUBIC)
    assert np.array_equal(opened(Shrink(64, 95)(encoded(image), "a")), resize(image))


def test_quality_trades_bytes_for_error_and_chroma_stays_whole() -> None:
    image = smooth(300, 200)
    exact = np.asarray(opened(Shrink(100, 95)(encoded(image), "a")), float)
    stored = {quality: Shrink(100, quality)(encoded(image, "JPEG", quality=100), "a") for quality in (50, 95)}
    errors = {quality: np.abs(np.asarray(opened(data), float) - exact).mean() for quality, data in stored.items()}
    assert len(stored[50]) < 0.8 * len(stored[95])
    assert errors[95] < 0.5 * errors[50]
    assert JpegImagePlugin.get_sampling(opened(stored[95])) == 0
    webps = [len(Shrink(100, quality)(encoded(image, "WEBP", quality=100), "a")) for quality in (50, 95)]
    assert webps[0] < 0.8 * webps[1]


def test_an_image_that_a_tag_turns_is_stored_upright_and_untagged() -> None:
    image = smooth(200, 120)
    exif = Image.Exif()
    exif[UPRIGHT_OF_6[0]] = UPRIGHT_OF_6[1]
    data = encoded(image, "JPEG", quality=100, exif=exif)
    small = Shrink(40, 100)(data, "a")
    assert opened(small).size == (40, 66)
    assert not opened(small).getexif()
    upright = image.rotate(-90, expand=True).resize((40, 66), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(opened(small), float) - np.asarray(upright, float)).mean() < 2


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP")]
)
def test_any_image_is_stored_as_the_rgb_that_is_trained_on(mode: str, kind: str) -> None:
    options = {"comment": b"words"} if kind == "JPEG" else {}
    data = encoded(smooth(100, 80).convert(mode), kind, icc_profile=b"profile", **options)
    small = opened(Shrink(40, 100)(data, "a"))
    assert small.mode == "RGB"
    assert not small.info.keys() & {"icc_profile", "comment", "transparency"}
    expected = decode(data, "a").resize((50, 40), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(small, float) - np.asarray(expected, float)).mean() < (0.1 if kind == "PNG" else 2)


@pytest.mark.parametrize("data", [b"", b"text", encoded(smooth(90, 90), "JPEG")[:600], encoded(smooth(50, 50), "GIF")])
def test_what_is_no_image_is_told_with_its_name(data: bytes) -> None:
    with pytest.raises(ImageError, match="n01440764/a"):
        Shrink(40, 95)(data, "n01440764/a.JPEG")

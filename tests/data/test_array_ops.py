from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment
from timm.data.auto_augment import AugmentOp
from timm.data.transforms import str_to_pil_interp

from iwin.data import array_ops
from iwin.data.policy import MOVES, PLAIN, KeepOneBit

FILL = (124, 116, 104)
# The table of the module's docstring: mean and largest difference on photos.
STATED = {
    name: (float(mean), int(largest))
    for name, mean, largest in re.findall(r"^    (\w+) +([\d.]+) +(\d+)$", array_ops.__doc__ or "", re.MULTILINE)
}
EXACT = sorted(name for name, (mean, _) in STATED.items() if mean == 0)
FACTORS = (0.0, 0.1, 0.5, 0.97, 1.0, 1.03, 1.5, 1.9, 3.7)
# Not round: Pillow's sums of round ones may come out a hair below a whole number, which it then cuts to the one before.
SHARES = (-1.2137, -0.4471, -0.2083, -0.0061, 0.0, 0.1009, 0.2993, 0.4321)
# Every argument that a level function of timm can give, or a spread of them.
ARGUMENTS: dict[Callable[..., Image.Image], tuple[tuple[float, ...], ...]] = {
    auto_augment.auto_contrast: ((),),
    auto_augment.equalize: ((),),
    auto_augment.invert: ((),),
    auto_augment.posterize: tuple((bits,) for bits in range(1, 9)),
    auto_augment.solarize: tuple((thresh,) for thresh in (0, 1, 2, 26, 127, 128, 129, 254, 255, 256)),
    auto_augment.solarize_add: tuple((add,) for add in (0, 1, 55, 110, 127, 128)),
    auto_augment.brightness: tuple((factor,) for factor in FACTORS),
    auto_augment.contrast: tuple((factor,) for factor in FACTORS),
    auto_augment.color: tuple((factor,) for factor in FACTORS),
    auto_augment.sharpness: tuple((factor,) for factor in FACTORS),
    auto_augment.desaturate: tuple((factor,) for factor in (0.0, 0.5, 0.77, 1.0)),
    auto_augment.gaussian_blur: tuple((deviation,) for deviation in (0.1, 0.35, 0.9, 1.81, 2.0)),
    auto_augment.gaussian_blur_rand: tuple((factor,) for factor in (0.0, 0.3, 1.0)),
    auto_augment.rotate: tuple((degrees,) for degrees in (-90, -30, -26.3, -1, 0, 0.2, 9, 27.9, 75, 180)),
    auto_augment.shear_x: tuple((factor,) for factor in SHARES),
    auto_augment.shear_y: tuple((factor,) for factor in SHARES),
    auto_augment.translate_x_rel: tuple((share,) for share in SHARES),
    auto_augment.translate_y_rel: tuple((share,) for share in SHARES),
    auto_augment.translate_x_abs: tuple((pixels,) for pixels in (-300, -20.25, -3, 0, 0.5, 17, 31.87)),
    auto_augment.translate_y_abs: tuple((pixels,) for pixels in (-300, -20.25, -3, 0, 0.5, 17, 31.87)),
}
NO_ROUNDING = {auto_augment.NAME_TO_OP[name] for name in EXACT} - {auto_augment.desaturate}


@cache
def photos() -> tuple[np.ndarray, ...]:
    """china.jpg and flower.jpg."""
    images = [
        Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC) for image in load_sample_images().images
    ]
    return tuple(np.array(image) for image in images)


@cache
def pictures() -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    noise = draws.integers(0, 256, (60, 91, 3), dtype=np.uint8)
    return {
        "tall": np.ascontiguousarray(photos()[0][20:160, 30:125]),
        "wide": np.ascontiguousarray(photos()[1][90:163, 10:]),
        "noise": noise,
        "pale": 100 + noise // 5,
        "one colour": np.full((33, 40, 3), (10, 200, 255), np.uint8),
        "two values": np.where(noise < 128, 7, 9).astype(np.uint8),
        "tiny": noise[:4, :3].copy(),
        "one row": noise[:1].copy(),
    }


def both(
    theirs: Callable[..., Image.Image], image: np.ndarray, arguments: tuple[float, ...], interpolation: str = "bicubic"
) -> tuple[np.ndarray, np.ndarray]:
    """What the array operation and what timm's makes of an image, under the same draws."""
    random.seed(0)
    if theirs in PLAIN:
        made = PLAIN[theirs](image, *arguments)
    else:
        made = MOVES[theirs](image, *arguments, fill=FILL, interpolation=interpolation)
    random.seed(0)
    resample = str_to_pil_interp(interpolation)
    expected = theirs(Image.fromarray(image), *arguments, fillcolor=FILL, resample=resample)
    return made, np.asarray(expected)


def apart(made: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.abs(made.astype(int) - expected)


def operation(name: str) -> tuple[AugmentOp, AugmentOp]:
    """timm's operation and the same with ours in its place, as rand-m9-mstd0.5-inc1 has it, always done."""
    drawn_by_3a = name in ("Desaturate", "GaussianBlurRand")
    settings = {
        "img_mean": FILL,
        "interpolation": Image.Resampling.BICUBIC,
        "magnitude_std": 0 if drawn_by_3a else 0.5,
    }
    theirs, ours = (AugmentOp(name, 1.0, 10 if drawn_by_3a else 9, settings) for _ in range(2))
    if name.startswith("Posterize"):
        theirs.level_fn = ours.level_fn = KeepOneBit(theirs.level_fn)
    if theirs.aug_fn in PLAIN:
        ours.aug_fn, ours.kwargs = PLAIN[theirs.aug_fn], {}
    else:
        ours.aug_fn, ours.kwargs = MOVES[theirs.aug_fn], {"fill": FILL, "interpolation": "bicubic"}
    return theirs, ours


def test_every_operation_of_timm_has_an_array_version() -> None:
    assert set(PLAIN) | set(MOVES) == set(auto_augment.NAME_TO_OP.values()) == set(ARGUMENTS)
    assert set(auto_augment._RAND_INCREASING_TRANSFORMS) < set(STATED)


@pytest.mark.parametrize("name", STATED)
def test_on_photos_operations_are_as_near_as_the_docstring_states(name: str) -> None:
    theirs, ours = operation(name)
    differences = []
    for seed in range(20):
        for photo in photos():
            random.seed(seed)
            expected = np.asarray(theirs(Image.fromarray(photo)))
            random.seed(seed)
            differences.append(apart(ours(photo), expected))
    mean, largest = STATED[name]
    assert np.mean(differences) <= mean
    assert np.max(differences) <= largest


@pytest.mark.parametrize("picture", pictures())
@pytest.mark.parametrize("theirs", sorted(NO_ROUNDING, key=lambda function: function.__name__))
def test_tables_are_exactly_pillows(theirs: Callable[..., Image.Image], picture: str) -> None:
    for arguments in ARGUMENTS[theirs]:
        made, expected = both(theirs, pictures()[picture], arguments)
        assert np.array_equal(made, expected), arguments


@pytest.mark.parametrize("picture", pictures())
@pytest.mark.parametrize("theirs", [auto_augment.color, auto_augment.sharpness, auto_augment.desaturate])
def test_blends_differ_from_pillows_in_single_values_by_one(theirs: Callable[..., Image.Image], picture: str) -> None:
    for arguments in ARGUMENTS[theirs]:
        difference = apart(*both(theirs, pictures()[picture], arguments))
        assert difference.max() <= 1, arguments
        assert difference.mean() <= 0.001, arguments


@pytest.mark.parametrize("picture", pictures())
@pytest.mark.parametrize("theirs", [auto_augment.gaussian_blur, auto_augment.gaussian_blur_rand])
def test_blurs_are_pillows_within_a_grey_level(theirs: Callable[..., Image.Image], picture: str) -> None:
    for arguments in ARGUMENTS[theirs]:
        difference = apart(*both(theirs, pictures()[picture], arguments))
        assert difference.max() <= 2, arguments
        assert difference.mean() <= 0.15, arguments


@pytest.mark.parametrize("picture", pictures())
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("theirs", sorted(set(MOVES) - {auto_augment.rotate}, key=lambda function: function.__name__))
def test_slides_differ_from_pillows_in_single_values_by_one(
    theirs: Callable[..., Image.Image], interpolation: str, picture: str
) -> None:
    for arguments in ARGUMENTS[theirs]:
        difference = apart(*both(theirs, pictures()[picture], arguments, interpolation))
        assert difference.max() <= 1, arguments
        assert difference.mean() <= 0.05, arguments


@pytest.mark.parametrize("picture", pictures())
def test_a_bilinear_rotation_is_pillows_within_a_grey_level(picture: str) -> None:
    for degrees in (-29.7, -26.3, -1, 0, 0.2, 9, 27.9, 75):
        difference = apart(*both(auto_augment.rotate, pictures()[picture], (degrees,), "bilinear"))
        assert difference.max() <= 1, degrees
        assert difference.mean() <= 0.05, degrees


@pytest.mark.parametrize("degrees", [-30, -26.3, -1, 0, 0.2, 9, 27.9, 75])
def test_a_cubic_rotation_lets_in_the_colour_where_pillow_does(degrees: float) -> None:
    made, expected = both(auto_augment.rotate, pictures()["one colour"], (degrees,))
    assert np.array_equal(made, expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("pixels", [-50, -3, 0, 17])
@pytest.mark.parametrize("theirs", [auto_augment.translate_x_abs, auto_augment.translate_y_abs])
def test_a_shift_by_whole_pixels_is_exact(theirs: Callable[..., Image.Image], pixels: int, interpolation: str) -> None:
    for image in pictures().values():
        made, expected = both(theirs, image, (pixels,), interpolation)
        assert np.array_equal(made, expected)


@pytest.mark.parametrize("theirs", sorted(MOVES, key=lambda function: function.__name__))
def test_moves_to_the_nearest_pixel_take_pillows_pixel_nearly_everywhere(theirs: Callable[..., Image.Image]) -> None:
    for image in photos():
        for arguments in ARGUMENTS[theirs]:
            made, expected = both(theirs, image, arguments, "nearest")
            assert (made != expected).any(2).mean() <= 0.015, arguments


@pytest.mark.parametrize("theirs", sorted(ARGUMENTS, key=lambda function: function.__name__))
@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_the_image_stays_as_it_is_and_the_result_is_one_like_it(
    theirs: Callable[..., Image.Image], interpolation: str
) -> None:
    for image in pictures().values():
        before = image.copy()
        for arguments in ARGUMENTS[theirs]:
            made, _ = both(theirs, image, arguments, interpolation)
            assert np.array_equal(image, before)
            assert made.shape == image.shape
            assert made.dtype == np.uint8
            assert made.flags.c_contiguous
            assert made.flags.writeable


def test_the_colour_let_in_stays_the_same_after_a_result_is_written_to() -> None:
    image = pictures()["one colour"]
    first = array_ops.translate_x_abs(image, 100.0, FILL, "bicubic")
    first[:] = 0
    assert (array_ops.translate_x_abs(image, 100.0, FILL, "bicubic") == FILL).all()

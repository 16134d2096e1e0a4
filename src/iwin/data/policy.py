"""The policies of augment.auto_augment: timm's RandAugment, AutoAugment, 3-Augment and AugMix on arrays.

timm reads the notation and draws, from Python's and NumPy's generators, which operations are done and how
strongly; only what an operation does to the pixels is ours (array_ops.py, which states how near it comes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment
from timm.data.auto_augment import AugMixAugment
from timm.data.transforms import str_to_pil_interp

from iwin.data import array_ops
from iwin.errors import ConfigError

Policy = Callable[[np.ndarray], np.ndarray]
Operations = dict[Callable[..., Image.Image], Callable[..., np.ndarray]]
# As timm: translations reach 0.45 of the side, also in AugMix's relative notation 0.3.
TRANSLATE = 0.45
AUGMIX_TRANSLATE = 0.3

PLAIN: Operations = {
    auto_augment.auto_contrast: array_ops.auto_contrast,
    auto_augment.brightness: array_ops.brightness,
    auto_augment.color: array_ops.color,
    auto_augment.contrast: array_ops.contrast,
    auto_augment.desaturate: array_ops.desaturate,
    auto_augment.equalize: array_ops.equalize,
    auto_augment.gaussian_blur: array_ops.gaussian_blur,
    auto_augment.gaussian_blur_rand: array_ops.gaussian_blur_rand,
    auto_augment.invert: array_ops.invert,
    auto_augment.posterize: array_ops.posterize,
    auto_augment.sharpness: array_ops.sharpness,
    auto_augment.solarize: array_ops.solarize,
    auto_augment.solarize_add: array_ops.solarize_add,
}
# These take a colour for what they let in, and an interpolation.
MOVES: Operations = {
    auto_augment.rotate: array_ops.rotate,
    auto_augment.shear_x: array_ops.shear_x,
    auto_augment.shear_y: array_ops.shear_y,
    auto_augment.translate_x_abs: array_ops.translate_x_abs,
    auto_augment.translate_x_rel: array_ops.translate_x_rel,
    auto_augment.translate_y_abs: array_ops.translate_y_abs,
    auto_augment.translate_y_rel: array_ops.translate_y_rel,
}


def policy(notation: str, image_size: tuple[int, int], fill: tuple[int, int, int], interpolation: str) -> Policy:
    """timm's policy of that notation: (H, W, 3) uint8 RGB -> the same shape, C-contiguous.

    The image is never changed; where nothing was drawn, it is what comes back. The draws are timm's, one for one.
    AugMix is done on Pillow images, because timm blends them there. Posterize keeps at least 1 bit.

    image_size: (H, W) of the model, from which timm takes the reach of AutoAugment's translations.
    fill: the colour that rotations and shifts let in.
    interpolation: nearest, bilinear, bicubic or lanczos; images are turned by bicubic for the last, which Pillow
        has for resizing only.

    Raises:
        ConfigError: a notation that timm does not know.
    """
    interpolation = "bicubic" if interpolation == "lanczos" else interpolation
    built = _timm_policy(notation, image_size, fill, interpolation)
    for operation in _operations(built):
        level = operation.level_fn
        if level is not None and operation.name.startswith("Posterize"):
            operation.level_fn = KeepOneBit(level)
    if isinstance(built, AugMixAugment):
        return OnPillow(built)
    for operation in _operations(built):
        on_pillow = operation.aug_fn
        if on_pillow in PLAIN:
            operation.aug_fn, operation.kwargs = PLAIN[on_pillow], {}
        elif on_pillow in MOVES:
            operation.aug_fn, operation.kwargs = MOVES[on_pillow], {"fill": fill, "interpolation": interpolation}
        else:
            # One of a later timm.
            operation.aug_fn = OnPillow(on_pillow)
    return built


def _timm_policy(notation: str, image_size: tuple[int, int], fill: tuple[int, int, int], interpolation: str) -> Any:
    settings = {
        "translate_const": int(min(image_size) * TRANSLATE),
        "img_mean": fill,
        "interpolation": str_to_pil_interp(interpolation),
    }
    try:
        if notation.startswith("rand"):
            return auto_augment.rand_augment_transform(notation, settings)
        if notation.startswith("augmix"):
            settings["translate_pct"] = AUGMIX_TRANSLATE
            return auto_augment.augment_and_mix_transform(notation, settings)
        return auto_augment.auto_augment_transform(notation, settings)
    except (AssertionError, ValueError, KeyError) as error:
        raise ConfigError(
            f"augment.auto_augment is {notation!r}, which timm does not understand ({error}): "
            "write it as rand-m9-mstd0.5-inc1, original or augmix-m3-w3, or null for none."
        ) from error


def _operations(built: object) -> Iterator[Any]:
    """Every AugmentOp of a policy: RandAugment and AugMix hold a list, AutoAugment a list of lists."""
    if hasattr(built, "ops"):
        yield from built.ops
    else:
        assert hasattr(built, "policy"), f"timm's {type(built).__name__} is built in another way than was known"
        for operations in built.policy:
            yield from operations


class KeepOneBit:
    """A posterize level that never asks for 0 bits, which Pillow refuses and which would be a black image.

    timm's scales reach 0 at the ends of the magnitude; a magnitude that is drawn around 9 gets there.
    """

    def __init__(self, level: Callable[[float, dict[str, object]], tuple[int]]) -> None:
        self.level = level

    def __call__(self, magnitude: float, settings: dict[str, object]) -> tuple[int]:
        return (max(1, self.level(magnitude, settings)[0]),)


class OnPillow:
    """A function of a Pillow image, as a function of an array; what else it is given is passed on."""

    def __init__(self, function: Callable[..., Image.Image]) -> None:
        self.function = function

    def __call__(self, image: np.ndarray, *level: float, **settings: object) -> np.ndarray:
        # A copy, as Pillow lends its pixels for reading only.
        return np.array(self.function(Image.fromarray(image), *level, **settings))

"""What is done to each image in a worker: an RGB image in, a uint8 tensor of the model's size out.

Built from the pieces of timm.data in the order of its create_transform, so that a recipe means what it means
there. Normalising, erasing and mixing are done on the device, a batch at a time (mixup.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from PIL import Image
from timm.data.auto_augment import (
    AugmentOp,
    augment_and_mix_transform,
    auto_augment_transform,
    rand_augment_transform,
)
from timm.data.transforms import (
    RandomResizedCropAndInterpolation,
    ResizeKeepRatio,
    str_to_interp_mode,
    str_to_pil_interp,
)
from torch import Tensor
from torchvision import transforms

from iwin.data.recipe import Recipe
from iwin.errors import ConfigError

Transform = Callable[[Image.Image], Image.Image]
# As timm: translations reach 0.45 of the side, also in AugMix's relative notation 0.3.
TRANSLATE = 0.45
AUGMIX_TRANSLATE = 0.3


class EvalTransform:
    """Resize and centre crop: RGB image -> (3, H, W) uint8, without draws.

    eval_resize below 1: the short side is resized to size / eval_resize (256 for 224 at 0.875), then the centre
    is cropped. 1.0: the whole image is resized to (H, W).
    """

    def __init__(self, image_size: tuple[int, int], recipe: Recipe) -> None:
        self.resize = _eval_resize(image_size, recipe)

    def __call__(self, image: Image.Image) -> Tensor:
        return transforms.functional.pil_to_tensor(self.resize(image))


class TrainTransform:
    """The recipe's draws on one image: RGB image -> (3, H, W) uint8.

    Draws come from Python's, NumPy's and torch's global generators, as timm has it: seed them before each call.
    mean: of the data set, 3 values in 0..1, the colour that rotations and shifts let in.

    Raises:
        ConfigError: a policy in auto_augment that timm does not know.
    """

    def __init__(self, image_size: tuple[int, int], recipe: Recipe, mean: Sequence[float]) -> None:
        fill = tuple(min(255, round(255 * value)) for value in mean)
        interpolation = str_to_interp_mode(recipe.interpolation)
        steps: list[Transform] = []
        if recipe.scale is None:
            steps.append(_eval_resize(image_size, recipe))
        else:
            steps.append(
                RandomResizedCropAndInterpolation(image_size, recipe.scale, recipe.ratio, recipe.interpolation)
            )
        if recipe.hflip:
            steps.append(transforms.RandomHorizontalFlip(recipe.hflip))
        if recipe.rotate or recipe.translate or recipe.shear:
            affine = transforms.RandomAffine(
                recipe.rotate,
                (recipe.translate, recipe.translate),
                shear=recipe.shear or None,
                interpolation=_affine(interpolation),
                fill=fill,
            )
            steps.append(affine)
        if recipe.auto_augment:
            steps.append(_policy(recipe.auto_augment, image_size, fill, recipe.interpolation))
        # As in timm, a policy takes the place of colour jitter, except the "3a" ones, which leave colours alone.
        if recipe.color_jitter and (not recipe.auto_augment or "3a" in recipe.auto_augment):
            steps.append(transforms.ColorJitter(*(recipe.color_jitter,) * 3))
        self.steps = steps

    def __call__(self, image: Image.Image) -> Tensor:
        for step in self.steps:
            image = step(image)
        return transforms.functional.pil_to_tensor(image)


def _eval_resize(image_size: tuple[int, int], recipe: Recipe) -> Transform:
    interpolation = str_to_interp_mode(recipe.interpolation)
    if recipe.eval_resize == 1:
        return transforms.Resize(image_size, interpolation=interpolation)
    height, width = (math.floor(side / recipe.eval_resize) for side in image_size)
    resize: Transform
    if height == width:
        resize = transforms.Resize(height, interpolation=interpolation)
    else:
        resize = ResizeKeepRatio((height, width), interpolation=recipe.interpolation)
    return transforms.Compose([resize, transforms.CenterCrop(image_size)])


def _affine(interpolation: transforms.InterpolationMode) -> transforms.InterpolationMode:
    """Pillow turns images with nearest, bilinear or bicubic only."""
    lanczos = interpolation == transforms.InterpolationMode.LANCZOS
    return transforms.InterpolationMode.BICUBIC if lanczos else interpolation


def _policy(notation: str, image_size: tuple[int, int], fill: tuple[int, ...], interpolation: str) -> Transform:
    """timm's policy of that notation, with its posterize operations held to at least 1 bit."""
    settings = {
        "translate_const": int(min(image_size) * TRANSLATE),
        "img_mean": fill,
        "interpolation": str_to_pil_interp(interpolation),
    }
    try:
        if notation.startswith("rand"):
            policy = rand_augment_transform(notation, settings)
        elif notation.startswith("augmix"):
            policy = augment_and_mix_transform(notation, {**settings, "translate_pct": AUGMIX_TRANSLATE})
        else:
            policy = auto_augment_transform(notation, settings)
    except (AssertionError, ValueError, KeyError) as error:
        raise ConfigError(
            f"augment.auto_augment is {notation!r}, which timm does not understand ({error}): "
            "write it as rand-m9-mstd0.5-inc1, original or augmix-m3-w3, or null for none."
        ) from error
    for operation in _operations(policy):
        level = operation.level_fn
        if level is not None and operation.name.startswith("Posterize"):
            operation.level_fn = KeepOneBit(level)
    return policy


def _operations(policy: object) -> Iterator[AugmentOp]:
    """Every operation of a policy: RandAugment and AugMix hold a list, AutoAugment a list of lists."""
    if hasattr(policy, "ops"):
        yield from policy.ops
    else:
        assert hasattr(policy, "policy"), f"timm's {type(policy).__name__} is built in another way than was known"
        for operations in policy.policy:
            yield from operations


class KeepOneBit:
    """A posterize level that never asks for 0 bits, which Pillow refuses and which would be a black image.

    timm's scales reach 0 at the ends of the magnitude; a magnitude that is drawn around 9 gets there.
    """

    def __init__(self, level: Callable[[float, dict[str, object]], tuple[int]]) -> None:
        self.level = level

    def __call__(self, magnitude: float, settings: dict[str, object]) -> tuple[int]:
        return (max(1, self.level(magnitude, settings)[0]),)

"""What is done to each image in a worker: an encoded image in, a uint8 array of the model's size out.

Built from the pieces of timm.data in the order of its create_transform, so that a recipe means what it means
there. Normalising, erasing and mixing are done on the device, a batch at a time (mixup.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torchvision import transforms

from iwin.data.encoded import Box, Encoded
from iwin.data.policy import OnPillow, policy
from iwin.data.recipe import Recipe

Step = Callable[[np.ndarray], np.ndarray]


class EvalTransform:
    """Resize and centre crop: an image in its file -> (H, W, 3) uint8, without draws.

    eval_resize below 1: the short side is resized to size / eval_resize (256 for 224 at 0.875), then the centre
    is cropped. 1.0: the whole image is resized to (H, W).
    """

    def __init__(self, image_size: tuple[int, int], recipe: Recipe) -> None:
        self.image_size = image_size
        self.recipe = recipe

    def __call__(self, image: Encoded) -> np.ndarray:
        recipe = self.recipe
        height, width = self.image_size
        if recipe.eval_resize == 1:
            return image.resized(None, self.image_size, recipe.interpolation)
        scaled = _scaled_size(image.size, self.image_size, recipe.eval_resize)
        pixels = image.resized(None, scaled, recipe.interpolation)
        top, left = (round((there - kept) / 2) for there, kept in zip(scaled, self.image_size, strict=True))
        return pixels[top : top + height, left : left + width]


class TrainTransform:
    """The recipe's draws on one image: an image in its file -> (H, W, 3) uint8.

    Draws come from Python's, NumPy's and torch's global generators, as timm has it: seed them before each call.
    mean: of the data set, 3 values in 0..1, the colour that rotations and shifts let in.

    Raises:
        ConfigError: a policy in auto_augment that timm does not know.
    """

    def __init__(self, image_size: tuple[int, int], recipe: Recipe, mean: Sequence[float]) -> None:
        red, green, blue = (min(255, round(255 * value)) for value in mean)
        fill = red, green, blue
        self.image_size = image_size
        self.recipe = recipe
        self.whole = EvalTransform(image_size, recipe)
        steps: list[Step] = []
        if recipe.rotate or recipe.translate or recipe.shear:
            affine = transforms.RandomAffine(
                recipe.rotate,
                (recipe.translate, recipe.translate),
                shear=recipe.shear or None,
                interpolation=_affine(str_to_interp_mode(recipe.interpolation)),
                fill=fill,
            )
            steps.append(OnPillow(affine))
        if recipe.auto_augment:
            steps.append(policy(recipe.auto_augment, image_size, fill, recipe.interpolation))
        # As in timm, a policy takes the place of colour jitter, except the "3a" ones, which leave colours alone.
        if recipe.color_jitter and (not recipe.auto_augment or "3a" in recipe.auto_augment):
            steps.append(OnPillow(transforms.ColorJitter(*(recipe.color_jitter,) * 3)))
        self.steps = steps

    def __call__(self, image: Encoded) -> np.ndarray:
        recipe = self.recipe
        if recipe.scale is None:
            pixels = np.ascontiguousarray(self.whole(image))  # as the steps below ask for
        else:
            box = random_box(image.size, recipe.scale, recipe.ratio)
            pixels = image.resized(box, self.image_size, recipe.interpolation)
        if recipe.hflip and torch.rand(1).item() < recipe.hflip:
            pixels = cv2.flip(pixels, 1)
        for step in self.steps:
            pixels = step(pixels)
        return pixels


def random_box(size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> Box:
    """timm's draw of a part of an image of `size` (width, height), with this share of its area and aspect ratio."""
    # timm asks an image for nothing but its size, and a tensor without content has one.
    image = torch.empty((size[1], size[0]), device="meta")
    top, left, height, width = RandomResizedCropAndInterpolation.get_params(image, scale, ratio)
    return Box(left, top, width, height)


def _scaled_size(size: tuple[int, int], target_HW: tuple[int, int], share: float) -> tuple[int, int]:
    """What an image of `size` (width, height) is resized to, so that its centre of `target_HW` is `share` of it.

    Rounded as by torchvision's Resize for a square target, and as by timm's ResizeKeepRatio for another.
    """
    width, height = size
    tall, wide = (math.floor(side / share) for side in target_HW)
    if tall == wide:
        short, long = min(size), max(size)
        scaled = tall, int(tall * long / short)
        return scaled if height <= width else scaled[::-1]
    ratio = min(height / tall, width / wide)
    return round(height / ratio), round(width / ratio)


def _affine(interpolation: transforms.InterpolationMode) -> transforms.InterpolationMode:
    """Pillow turns images with nearest, bilinear or bicubic only."""
    lanczos = interpolation == transforms.InterpolationMode.LANCZOS
    return transforms.InterpolationMode.BICUBIC if lanczos else interpolation

"""The augmentation recipe of a run: the keys of conf/augment, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from iwin.errors import ConfigError, near_names

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
ERASE_MODES = ("const", "rand", "pixel")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One recipe; every field is a key of conf/augment, and none has a default here.

    On each image, in a worker:
        scale, ratio: ranges of the random crop's area and aspect ratio; scale null resizes as in evaluation.
        hflip: probability of a horizontal flip.
        rotate, translate, shear: largest angle in degrees, largest shift as a fraction of the side, largest angle
            by which rows slide against each other, in degrees; 0 for none.
        color_jitter: strength for brightness, contrast and saturation; 0 for none.
        auto_augment: a policy in timm's notation, or null.
        interpolation: of every resize, in training and evaluation.
        eval_resize: the side of the centre crop over the resized short side; 1.0 resizes the whole image to
            the target, without regard to its aspect ratio.
    On each batch, on the device:
        erase_prob, erase_mode, erase_count: random erasing; mode const, rand or pixel; at most count boxes.
        mixup, cutmix: the alphas of their Beta distributions, 0 for none. mixup_prob: that a batch is mixed at
            all. switch_prob: that it is by CutMix where both are on.
    """

    scale: tuple[float, float] | None
    ratio: tuple[float, float]
    hflip: float
    rotate: float
    translate: float
    shear: float
    color_jitter: float
    auto_augment: str | None
    interpolation: str
    eval_resize: float
    erase_prob: float
    erase_mode: str
    erase_count: int
    mixup: float
    cutmix: float
    mixup_prob: float
    switch_prob: float

    @classmethod
    def read(cls, keys: Mapping[str, Any]) -> Recipe:
        """The recipe of the config group `augment`.

        Raises:
            ConfigError: an unknown key, a missing one, or a value out of its range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for key in keys:
            if key not in names:
                raise ConfigError(f"augment.{key} is no key of a recipe: {near_names(key, names)}")
        missing = [name for name in names if name not in keys]
        if missing:
            raise ConfigError(f"the recipe lacks augment.{missing[0]}. Give all of: {', '.join(names)}.")
        values = dict(keys)
        for name in ("scale", "ratio"):
            if values[name] is not None:
                values[name] = _range(name, values[name])
        return cls(**values)

    def __post_init__(self) -> None:
        if self.ratio is None:
            raise ConfigError("augment.ratio is null: give two positive numbers, the smaller first.")
        if self.scale is not None and self.scale[1] > 1:
            raise ConfigError(f"augment.scale is {list(self.scale)}: a crop's area is at most 1.")
        for name in ("hflip", "erase_prob", "mixup_prob", "switch_prob", "translate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}: it must be from 0 to 1.")
        for name in ("rotate", "shear", "color_jitter", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}: it must be 0 or more.")
        if not 0 < self.eval_resize <= 1:
            raise ConfigError(f"augment.eval_resize is {self.eval_resize}: it must be above 0 and at most 1.")
        if self.erase_count < 1:
            raise ConfigError(f"augment.erase_count is {self.erase_count}: it must be at least 1.")
        for name, known in (("interpolation", INTERPOLATIONS), ("erase_mode", ERASE_MODES)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"augment.{name} is {getattr(self, name)!r}: {near_names(str(getattr(self, name)), known)}"
                )


def _range(name: str, value: Any) -> tuple[float, float]:
    low, high = value if isinstance(value, list | tuple) and len(value) == 2 else (0, 0)
    if not 0 < low <= high:
        raise ConfigError(f"augment.{name} is {value!r}: give two positive numbers, the smaller first.")
    return float(low), float(high)

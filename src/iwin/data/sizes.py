"""How large the images are: data.image_size, and data.progressive, by which those of training grow with the epochs.

Progressive resizing: small images in the beginning of a run cost less and teach nearly as much; as in EfficientNetV2,
Tan and Le, arXiv 2104.00298.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iwin.durations import parse, to_epochs, to_updates
from iwin.errors import ConfigError

Size = tuple[int, int]  # height and width, in pixels
KEY = "data.progressive"


def read_size(key: str, value: Any) -> Size:
    """The size that `value` gives, one number or [height, width]. ConfigError, naming the key, for anything else."""
    sides = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    if len(sides) != 2 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides):
        raise ConfigError(f"{key} is {value}: give pixels, one number or [height, width].")
    return sides[0], sides[1]


class Progressive:
    """The sizes of training images over a run: {duration: size}, as {0%: 128, 40%: 160, 80%: 224}.

    The images of an epoch have the size of the last entry that has begun. A share of the run (%) is rounded to the
    nearest begin of an epoch; epochs (ep) and updates (st) must be one.

    Raises:
        ConfigError: no mapping of durations to sizes, or its first entry is not at 0.
    """

    def __init__(self, sizes: Mapping[Any, Any]) -> None:
        if not isinstance(sizes, Mapping) or not sizes:
            raise ConfigError(f"{KEY} is {sizes}: give sizes by duration, as {{0%: 128, 40%: 160}}, or null.")
        self.sizes = {str(duration): read_size(f"{KEY}.{duration}", size) for duration, size in sizes.items()}
        numbers = [parse(duration, KEY)[0] for duration in self.sizes]
        if numbers[0] != 0:
            raise ConfigError(f"{KEY} begins with {next(iter(self.sizes))}: the first size must be of 0%.")

    def starts(self, *, per_epoch: int, epochs: int) -> list[tuple[int, Size]]:
        """The first epoch of each size, in a run of `epochs` with `per_epoch` updates each.

        Raises:
            ConfigError: an entry begins inside an epoch, no later than the one before it, or after the last epoch.
        """
        total = per_epoch * epochs
        found: list[tuple[int, Size]] = []
        for duration, size in self.sizes.items():
            start = _epoch(duration, per_epoch=per_epoch, total=total) if found else 0
            if found and start <= found[-1][0]:
                raise ConfigError(
                    f"{KEY}: {duration} is epoch {start} of {epochs}, counted from 0, and the entry before it begins "
                    f"at {found[-1][0]}: give them in order, at least an epoch apart, or make the run longer."
                )
            if start >= epochs:
                raise ConfigError(
                    f"{KEY}: {duration} is epoch {start} of {epochs}, counted from 0, so that no image would have "
                    "its size: leave it out, or make the run longer."
                )
            found.append((start, size))
        return found


def _epoch(duration: str, *, per_epoch: int, total: int) -> int:
    if parse(duration, KEY)[1] == "%":
        return round(to_updates(duration, per_epoch=per_epoch, total=total, key=KEY) / per_epoch)
    return to_epochs(duration, per_epoch=per_epoch, total=total, key=KEY)


def check_takes_sizes(model: object, sizes: Sequence[Size]) -> None:
    """ConfigError where `model` takes images of one size alone, as one of ours without model.dynamic."""
    if not getattr(model, "dynamic", True):
        given = ", ".join(f"{height} x {width}" for height, width in sizes)
        raise ConfigError(
            f"{KEY} gives images of {given}, and the model takes those of one size alone: add model.dynamic=true, or "
            f"set {KEY}=null."
        )

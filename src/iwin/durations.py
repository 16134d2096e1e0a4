"""Lengths of time in training, written in one way everywhere: 20ep (epochs), 2000st (updates), 5% (of the run)."""

from __future__ import annotations

import re

from iwin.errors import ConfigError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ep|st|%)")


def parse(duration: object, key: str = "") -> tuple[float, str]:
    """The number and its unit: ep, st or %. ConfigError, naming the key, for anything else and for parts of updates."""
    match = _DURATION.fullmatch(str(duration).strip())
    said = f"{key}={duration}" if key else f"{duration!r}"
    if match is None:
        raise ConfigError(f"{said} is no duration: write epochs as 20ep, updates as 2000st, a share of the run as 5%")
    number, unit = float(match[1]), match[2]
    if unit == "st" and number != int(number):
        raise ConfigError(f"{said}: updates come in whole numbers")
    return number, unit


def to_updates(duration: object, *, per_epoch: int, total: int, key: str = "") -> int:
    """Optimizer updates in a duration, in a run of `total` updates with `per_epoch` of them an epoch.

    ConfigError, naming the key, for what is no duration.
    """
    number, unit = parse(duration, key)
    return round(number * {"ep": per_epoch, "st": 1, "%": total / 100}[unit])


def to_epochs(duration: object, *, per_epoch: int, total: int, key: str) -> int:
    """Whole epochs in a duration. ConfigError, naming the key, where it is no whole number of them, or none."""
    updates = to_updates(duration, per_epoch=per_epoch, total=total, key=key)
    epochs, rest = divmod(updates, per_epoch)
    if rest or epochs < 1:
        raise ConfigError(
            f"{key}={duration} is {updates} updates, and an epoch has {per_epoch}: it must be whole epochs, at least "
            f"one, as {max(1, epochs)}ep"
        )
    return epochs


def run_epochs(duration: object, *, per_epoch: int) -> int:
    """The epochs of a run that is to last so long. ConfigError as of `to_epochs`, and for a share of itself."""
    if parse(duration, "duration")[1] == "%":
        raise ConfigError(f"duration={duration}: the length of a run is no share of itself; write 300ep, or 2000st")
    return to_epochs(duration, per_epoch=per_epoch, total=0, key="duration")

"""Errors that are for people: what was wrong, with its value, and what to do about it.

The programs print the message of these alone, in a few lines, and exit with 2. Anything else that is
raised is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user gave cannot be used; the message says what and what to do."""


class ConfigError(UserError):
    """A configuration key or value that cannot be used."""


class DataError(UserError):
    """A data set that is missing, damaged, or not what its configuration says."""


class ImageError(DataError):
    """One image of a data set that cannot be decoded, where the rest may be sound."""


class WeightsError(UserError):
    """A checkpoint that is missing, damaged, or belongs to another model."""


MOST_NAMES = 12


def near_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """The ending of an error message: the names nearest to `name`, or all when none is near."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return "there are: " + ", ".join(names[:MOST_NAMES]) + more


def whole(key: str, value: object, least: int) -> int:
    """`value` as the whole number that the key must be. ConfigError for anything else, and below `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key} must be a whole number of at least {least}, got {value}")
    return value


def number(key: str, value: object, least: float, below: float = math.inf) -> float:
    """`value` as the number that the key must be, from `least` to `below` alone. ConfigError for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < below:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise ConfigError(f"{key} must be a number of at least {least:g}{limit}, got {value}")
    return value
